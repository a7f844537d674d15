"""Object stores: a small interface, memory, Azure Blob and S3 behind it, and what makes their failures bearable."""
