"""The built-in networks, one file per family; `faultcli.workload.models.architectures` holds their table.

resnet      residual networks for CIFAR-10
small       networks of two convolutions and two dense layers
squeezenet  SqueezeNet 1.1
"""
