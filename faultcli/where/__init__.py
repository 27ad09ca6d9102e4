"""Which layers and bits carry the risk: single flips, drawn by strata.

strata      the strata of a memory, their sites, and how much a flip there changes a value
allocation  how many trials each stratum gets, and what they say together
sizes       published sample sizes to compare with
running     the trials
"""
