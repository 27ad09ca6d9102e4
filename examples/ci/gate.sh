#!/usr/bin/env bash
# A reliability gate for any CI: runs a campaign, writes its reports whatever the verdict, ends with its exit code.
#
#     gate.sh [OPTIONS OF faultcli campaign]
#     gate.sh model.safetensors --data data.npz --ber 1e-5 --format q2.5 --max-drop 0.02
#     gate.sh model.safetensors --data data.npz --ber 1e-5 --baseline main.json --max-drop 0.01
#
# 0 every gate held, 1 a gate failed, 2 wrong usage or input, 3 a bug in faultcli, 4 the trials do not decide.
# REPORTS (default: faultcli-reports) gets report.html, summary.md, junit.xml and result.json, the baseline of a next run.
# Trials are kept by commit: a job that is run again goes on where it was. Outside of CI every run starts anew.
set -euo pipefail

reports=${REPORTS:-faultcli-reports}
if [ $# -eq 0 ]; then
    set -- --ber 1e-5 --format q2.5 --max-drop 0.05 # the embedded demo
fi

mkdir -p "$reports"
commit=${GITHUB_SHA:-${CI_COMMIT_SHA:-}}
store=$reports/trials${commit:+-$commit}.sqlite
if [ -z "$commit" ]; then
    rm -f "$store" "$store-journal" # nothing says whether the model is still the one of the last run
fi
code=0
faultcli campaign "$@" --store "$store" --json "$reports/result.json" || code=$?

case $code in
0 | 1 | 4) # a verdict, so there is something to report
    faultcli report "$store" --force --quiet \
        -o "$reports/report.html" -o "$reports/summary.md" -o "$reports/junit.xml"
    if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
        cat "$reports/summary.md" >>"$GITHUB_STEP_SUMMARY"
    fi
    ;;
esac
case $code in
0) echo "gate: held" ;;
1) echo "gate: failed, see $reports/report.html" ;;
4) echo "gate: not decided; allow more --trials, or a looser threshold" ;;
*) echo "gate: no result (exit code $code)" ;;
esac
exit "$code"
