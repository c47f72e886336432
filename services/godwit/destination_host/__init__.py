"""The service that receives machines for a host."""
