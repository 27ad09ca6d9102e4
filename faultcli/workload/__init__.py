"""The workload: model, data and metrics. State goes in, an `Outcome` comes out; that faults exist is not known here.

- `architectures`: the table of built-in networks, and how the one of a checkpoint is found
- `models`: a state dict into a module ready for inference
- `data`: labelled inputs by name, file or factory
- `preprocess`: stored images into what a network takes
- `metrics`: logits into an Outcome
- `evaluate`: all of it together: Workload, build_workload
- `demo`: the embedded default: real images and a trained network
"""
