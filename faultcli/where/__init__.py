"""Which layers and bits carry the risk: single flips, drawn by strata; and the few flips that hurt most.

strata      the strata of a memory, their sites, and how much a flip there changes a value
allocation  how many trials each stratum gets, and what they say together
sizes       published sample sizes to compare with
running     the trials
readings    what more flips make a stored tensor read
gradients   of the loss in stored tensors
candidates  which flips may hurt most: gradient times change
worst       the search for them
"""
