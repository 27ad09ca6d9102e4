"""The workload: model, data and metrics. State goes in, an `Outcome` comes out; that faults exist is not known here.

base           what every workload can do
building       a workload from what a command line says
classifier     classifiers
curvature      how fast their answers move when weights change
causal         what language models have in common
language       language models
choice         language models on questions with choices
score          any task: a score of the user's own
in_memory      a user's own module and data
models         how the network of a checkpoint is found and built
data           inputs, by name
late           runs that begin at the first changed layer
inputs         inputs as a model takes them
preprocess     images into what a network takes
framing        the steps that an image gets its size by
factory        objects named as package.module:factory
answers        the answer in a model's output
metrics        logits into an outcome
token_metrics  next-token logits into an outcome
chance         whether an accuracy could be chance
measures       the number that a campaign is about
process        threads, and memory that is kept
demo           the embedded default: images and a trained network
"""
