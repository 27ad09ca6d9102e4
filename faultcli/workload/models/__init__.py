"""How the network of a checkpoint is found and built.

architectures   what an architecture is, and the table of built-in ones
networks        the built-in ones
arch_spellings  every spelling of --arch, and what finds the network
huggingface     model directories, through transformers
hf_config       their config.json, checked
hf_tasks        the tasks that they are for
hf_class        which class of transformers a checkpoint is of
bounded         networks built no further than a checkpoint reaches
hf_processor    what their image processor does
hf_processors   the classes of image processors, by name
hf_settings     what one is set to
hf_labels       what they call their classes
hf_weights      their tensors into a model, and found again in it
hf_gguf         their tensors as GGUF files have them
hf_kernels      quantised ones as the library of their layout runs them
zoo             torchvision and timm, by name
zoo_heads       as many classes and channels as a checkpoint shows
timm_hub        model directories of timm
exported        programs of torch.export
channels        which values are an output channel, by the network
loading         a state dict into a module
hooks           older names and layouts that a module's own loading takes
ties            tensors that a network ties, and a checkpoint holds twice
prefixes        names that differ by what they begin with, and second copies
binding         which live tensors hold a checkpoint's
rearranged      tensors that a library moves about on loading, found again
coding          how: from where it puts numbers that count
"""
