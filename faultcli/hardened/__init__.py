"""The memory image on disk: a safetensors file of stored words, check words and what is needed to read them.

layout   how words lie in a file
record   what the file says of itself, three times
slot     the place of one tensor: its regions, and how their words read
write    from a checkpoint to a hardened one
read     what a hardened checkpoint holds, and the plain one back
damage   its words under faults
repair   its words without them
device   the reader in C that ships with a model: source, tables, words
"""
