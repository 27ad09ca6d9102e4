"""Training correctors, and judging them by what they were not trained on.

experiment  trained on some damaged copies and measured on others
assess      what a corrector does on held-out fault maps
"""
