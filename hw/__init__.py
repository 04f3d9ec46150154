"""The accelerator: configuration, RTL, programs for it, and the memory it talks to."""
