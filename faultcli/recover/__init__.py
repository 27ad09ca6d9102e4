"""Recovering function from outside: correctors of logits, and batch-norm statistics re-estimated on the device.

base            what a corrector is: logits in, logits out
methods         which there are, and training any of them
edmn            a perceptron beside the model, as published
align           mean and spread of every logit as in the clean model
mixture         one Gaussian per class, found without labels
adaptive        a blend by severity that leaves alone what it cannot help
many_classes    hundreds of classes: means and class shares over a window
language        language models: a temperature by how far frequencies of tokens have moved
few_shot        a correction bettered by a few labelled inputs of the device
known_damage    for the damaged device that is at hand, with labels
reference       what the logits of the clean model look like
damaged_logits  logits of damaged copies of a model
training        correctors trained on some damaged copies and measured on others
applied         a corrector in a campaign
class_mixes     windows of other class mixes, to learn from
streaming       a corrector around a deployed model
file            correctors as files
threads         one thread for what is small
parts           what such a file holds, checked
batchnorm       batch-norm statistics, re-estimated
"""
