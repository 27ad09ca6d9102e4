"""The built-in networks, one file per family; `faultcli.workload.models.architectures` holds their table.

alexnet     AlexNet, for ImageNet
densenet    densely connected networks for ImageNet
resnet      residual networks for CIFAR-10 and for ImageNet
small       networks of two convolutions and two dense layers
squeezenet  SqueezeNet 1.1
"""
