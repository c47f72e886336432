"""What a host holds already, by what it contains: other machines' memory, and files of chunks."""
