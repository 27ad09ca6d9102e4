"""Inputs: found by the name that a user gives, read with bounds, checked.

datasets   labelled inputs, by name
labelled   what they are, and arrays made into them
readers    the files that they come in
images     folders of images
labels     their folders into the classes of a network
archives   arrays out of npz and safetensors files
tokens     token sequences
choices    questions with choices, as tokens
texts      texts with labels, as tokens
tokenizer  what makes tokens of text
"""
