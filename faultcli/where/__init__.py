"""Which layers and bits carry the risk: single flips by strata, the few that hurt most, and what to protect by.

strata      the strata of a memory, their sites, and how much a flip there changes a value
layers      layers as strata, each hit alone at a bit-error rate
allocation  how many trials each stratum gets, and what they say together
sizes       published sample sizes to compare with
running     the trials
readings    what more flips make a stored tensor read
gradients   of the loss in stored tensors
looked_at   the inputs that are searched on
candidates  which flips may hurt most: gradient times change
worst       the search for them
options     what every tensor may be protected by, what it costs, and what damage is left
frontier    the plans of protections by tensor that no cheaper one beats
goal        what a plan is for
choosing    which of them loses little enough, and which chain for all tensors
planning    the cheapest of them that meets a target, judged on new fault maps
"""
