"""How the network of a checkpoint is found and built.

architectures   what an architecture is, and the table of built-in ones
networks        the built-in ones
arch_spellings  every spelling of --arch, and what finds the network
huggingface     model directories, through transformers
hf_config       their config.json, checked
hf_processor    what their image processor does
hf_weights      their tensors into a model, and found again in it
zoo             torchvision and timm, by name
exported        programs of torch.export
loading         a state dict into a module
channels        which values are an output channel, by the network
"""
