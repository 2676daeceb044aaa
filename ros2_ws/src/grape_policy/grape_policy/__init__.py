"""The VLA: checkpoint, processing, adapters, inference, policy node."""
