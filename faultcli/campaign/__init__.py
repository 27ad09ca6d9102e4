"""Campaigns: many trials of a model whose memory fails, and what they say.

subject     what is put to the test
scoring     how a model in memory is judged
plan        what is run: arms, trials, seed, and the hash of it
activations  outputs of layers of a subject as a memory
subsets     trials on a part of the inputs
pilot       how many inputs a trial should run
bench       the model with the values of one memory in it, on which trials run
executors   who runs trials: this process, others, a cluster
trials      what campaigns and curves share: a plan opened on a subject, and the trials of its arms
runner      running a campaign
curves      running curves over all bit-error rates
flip_curve  one such curve: which numbers of flips to try, and reading it at any rate
shard       part I of N of the trials
watch       looking at the trials of an arm as they come
gates       demands on a model, and when trials have decided them
baseline    an earlier campaign to compare with, trial by trial
statistics  intervals, sample sizes, stopping
single_flip  where the one flip of a trial lies
records     what trials leave behind, and what the trials of an arm say together
result      from a store to a result
safety      figures of functional safety, from trials of one flip
store       where trials are kept
database    the file of a store
store_checks  what a store may hold: every value is checked when it is read
outcome_checks  the same of runs of the model
flip_checks  the same of single flips
merge       one store of several
provenance  where numbers come from
preview     what a campaign would do
without_faults  the checkpoint as it is, as stored, and corrected
looks       what arms that recalibrate or correct need of a subject
training    a corrector trained for a subject
"""
