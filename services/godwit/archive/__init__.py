"""The archive: migrations that are over leave the server for files, whole and verified there."""
