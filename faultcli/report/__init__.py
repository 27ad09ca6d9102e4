"""Results for people and machines, from records alone.

formats      the kinds of report, by the ending of a file's name
page         what every page is made of
html         a campaign as one page
html_style   its style sheet
sections     its sections with plots
markdown     a campaign for the summary of a CI step
junit        a campaign for the test tab of a CI server
document     results as JSON
arms         arms as CSV
best         which arms are best, and by what
safety       figures of functional safety as rows, and the list of faults
safety_terms  what they mean and leave out
safety_page  the same as one page
trials       trials as CSV, JSON lines and Parquet
curve        curves as tables, lines and JSON
preview      a campaign before its first trial
correction   what a corrector gives back
where        where the risk lies
where_rows   the same as rows, and CSV
where_report  the same as reports show it, from a run or from its store
where_page   the same as one page, and as one picture
heat_map     a map of layers by bits as data
heat_map_svg  the same as SVG
planned      what to protect by what
where_layers  the same of layers that are hit one at a time
worst        the flips that hurt most
scaling      the factors that `scale` used
hardened     a file that is a memory image
repair       what was found in a damaged one
difference   what differs between two checkpoints
seal         seals, what damage they show, and what comes back
signs        what no checkpoint should look like
inspection   what a checkpoint holds
builtin      the tables of what is built in
summary      what a campaign says, in words and in one table
table        results as tables for a terminal
layout       tables that fit a terminal
text         text from outside on its way to a terminal
numbers      numbers as reports write them
plot         what a plot is, and how arms are told apart
level_plots  plots with a number on the horizontal axis
row_plots    plots with a row per arm
curve_plots  plots of curves
drawing      figures as SVG that follows the page
"""
