"""What benchmarks of logits correction share.

settings  which network is measured under which faults, and the command line
networks  the networks, and which of them the method was developed on
logits    what their damaged copies answer, kept in files
windows   windows of every class mix, and what a corrector that has seen one does
outcomes  what came of them, kept in files
"""
