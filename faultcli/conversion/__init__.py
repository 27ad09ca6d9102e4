"""Checkpoints of other libraries made safetensors. Nothing that a file names is imported or run.

reading    what a file holds: tensors in dicts in dicts
choosing   which of the dicts is the model
writing    the tensors as safetensors, each once
"""
