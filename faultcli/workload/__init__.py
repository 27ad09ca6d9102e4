"""The workload: model, data and metrics. State goes in, an `Outcome` comes out; that faults exist is not known here.

base           what every workload can do
evaluate       classifiers, and a workload from what a command line says
language       language models
score          any task: a score of the user's own
inmemory       a user's own module and data
architectures  what an architecture is, and the table of built-in ones
networks       the built-in ones
sources        every spelling of --arch, and what finds the network
huggingface    model directories, through transformers
hf_config      their config.json, checked
zoo            torchvision and timm, by name
exported       programs of torch.export
factory        objects named as package.module:factory
models         a state dict into a module
data           labelled inputs, by name
readers        the files that they come in
images         folders of images
archives       arrays out of npz and safetensors files
tokens         token sequences
preprocess     images into what a network takes
answers        the answer in a model's output
metrics        logits into an outcome
token_metrics  next-token logits into an outcome
measures       the number that a campaign is about
allocator      threads, and memory that is kept
demo           the embedded default: images and a trained network
"""
