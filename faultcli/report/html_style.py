"""The style sheet of the HTML report: light and dark by the reader's preference, light in print, one column on a phone.

Series colours are those of Okabe and Ito, "Color Universal Design" (2008), darkened for white paper and lightened for a
dark screen where they would be faint; their order puts the most different ones first.
"""

LIGHT = """
  --page: #f6f7f9; --card: #ffffff; --ink: #1b2430; --faint: #5d6878; --grid: #e3e7ed; --line: #d9dee6;
  --code: #f0f2f6; --link: #0a58a8;
  --series-0: #0072b2; --series-1: #d55e00; --series-2: #008f68; --series-3: #b3548e;
  --series-4: #a36a00; --series-5: #2f8fc4; --series-6: #4a4f57; --series-7: #7a5cc0;
  --masked: #c3cad4; --sdc: #d55e00; --due: #2b3a67;
  --pass: #00754f; --pass-soft: #e2f4ec; --fail: #b3261e; --fail-soft: #fdeae8;
  --inconclusive: #8a5a00; --inconclusive-soft: #fdf3dc; --none: #44505f; --none-soft: #eceff4;
"""
DARK = """
  --page: #0f141b; --card: #171e27; --ink: #e6ebf2; --faint: #9aa6b6; --grid: #28313d; --line: #2c3643;
  --code: #1f2833; --link: #7cbcf5;
  --series-0: #56b4e9; --series-1: #ff8a3d; --series-2: #2cc79a; --series-3: #e79bc8;
  --series-4: #f0b93a; --series-5: #8fd0ff; --series-6: #b9c1cc; --series-7: #b7a0f5;
  --masked: #465263; --sdc: #ff8a3d; --due: #a9b8f0;
  --pass: #4cd3a1; --pass-soft: #12302a; --fail: #ff8f87; --fail-soft: #3a1d1e;
  --inconclusive: #f2c14e; --inconclusive-soft: #352a12; --none: #c3ccd8; --none-soft: #222c38;
"""
# Of a map of layers by bits. Lightness falls (on white) or rises (on black) from class to class, as in the colour maps
# magma and inferno of Smith and van der Walt (2015), so that they are told apart in grey and by every eye.
HEAT_LIGHT = """
  --risk-0: #c9d1dc; --risk-1: #fbe3b5; --risk-2: #f6b262; --risk-3: #de6f45; --risk-4: #9c2a62; --risk-5: #2d0a4e;
"""
HEAT_DARK = """
  --risk-0: #35414f; --risk-1: #4d2a72; --risk-2: #92387f; --risk-3: #d8566b; --risk-4: #fb9a5b; --risk-5: #fdf0a8;
"""
HEAT = """
.heat text { fill: var(--ink); }
.heat .faint { fill: var(--faint); }
.heat .line { stroke: var(--faint); fill: none; }
.heat .strip { fill: var(--risk-0); fill-opacity: .35; }
.heat .r0 { fill: none; stroke: var(--risk-0); pointer-events: all; }
.heat .r1 { fill: var(--risk-1); }
.heat .r2 { fill: var(--risk-2); }
.heat .r3 { fill: var(--risk-3); }
.heat .r4 { fill: var(--risk-4); }
.heat .r5 { fill: var(--risk-5); }
"""
_RULES = """
*, *::before, *::after { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial,
    sans-serif; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem 1rem; z-index: 1; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 clamp(.9rem, 3vw, 2rem); }
header { padding-top: clamp(1.4rem, 4vw, 2.8rem); }
h1 { font-size: clamp(1.45rem, 4.4vw, 2.1rem); line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.015em;
  overflow-wrap: anywhere; }
.sub { color: var(--faint); margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.25; margin: 2.6rem 0 .3rem; letter-spacing: -.01em; }
h2 + p { margin: 0 0 1rem; color: var(--faint); max-width: 46rem; }
h3 { font-size: 1rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { margin: 1.3rem 0 0; display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; font-size: .92rem; }
.verdict { display: grid; grid-template-columns: auto 1fr; gap: .2rem 1rem; align-items: center; margin-top: 1.5rem;
  border-radius: 14px; padding: 1.1rem 1.3rem; border: 1px solid currentColor; }
.verdict .sign { grid-row: span 2; font-size: 1.7rem; line-height: 1; width: 3rem; height: 3rem; border-radius: 50%;
  display: grid; place-items: center; border: 2px solid currentColor; font-weight: 700; }
.verdict strong { font-size: 1.35rem; line-height: 1.2; align-self: end; }
.verdict p { margin: 0; color: var(--ink); align-self: start; }
.pass { color: var(--pass); background: var(--pass-soft); }
.fail { color: var(--fail); background: var(--fail-soft); }
.inconclusive, .incomplete { color: var(--inconclusive); background: var(--inconclusive-soft); }
.none { color: var(--none); background: var(--none-soft); }
td .chip { display: inline-block; padding: 0 .6em; border-radius: 1em; font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .8rem; margin: 1rem 0 0;
  padding: 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem; }
.tiles dt { color: var(--faint); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tiles dd small { font-size: .8rem; font-weight: 400; color: var(--faint); display: block; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.1rem 1.2rem; margin: 0;
  min-width: 0; }
.sections, .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 31rem), 1fr));
  gap: 0 1.6rem; align-items: start; }
.sections > * { min-width: 0; }
.sections > .wide { grid-column: 1 / -1; }
.plots { gap: 1rem; }
figure svg { display: block; width: 100%; max-width: 44rem; height: auto; margin: 0 auto; overflow: visible; }
svg text { font-family: inherit; font-variant-numeric: tabular-nums; }
.heat-map { overflow-x: auto; }
.heat-map + figcaption p { margin: .3rem 0 0; font-size: .9rem; overflow-wrap: anywhere; }
figure .heat-map svg { max-width: none; width: auto; margin: 0; }
.scroll { overflow-x: auto; margin-top: .8rem; max-height: 27rem; overflow-y: auto; border-top: 1px solid var(--line); }
.scroll:first-child { margin-top: 0; border-top: 0; }
.scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th, td { padding: .34rem .8rem .34rem 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; background: var(--card); color: var(--faint); font-weight: 600; }
th:first-child, td:first-child, .text { text-align: left; }
tbody th { font-weight: 500; white-space: normal; position: sticky; left: 0; background: var(--card); min-width: 6rem; }
thead th:first-child { left: 0; z-index: 1; }
.plots td small { display: block; color: var(--faint); font-size: .92em; }
dl.facts { display: grid; grid-template-columns: minmax(8rem, auto) 1fr; gap: .3rem 1.4rem; margin: 0;
  font-size: .92rem; }
dl.facts dt { color: var(--faint); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
ul.findings { margin: 0; padding: .5rem 1.2rem; list-style: none; columns: 2 30rem; column-gap: 2.4rem; }
ul.findings li { padding: .45rem 0; border-bottom: 1px solid var(--line); break-inside: avoid;
  overflow-wrap: anywhere; }
ul.findings b { display: block; font-size: .85rem; color: var(--faint); font-weight: 600; }
pre { background: var(--code); border-radius: 10px; padding: .8rem 1rem; margin: 1rem 0 0; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", monospace; }
.bar { display: flex; height: 1.5rem; border-radius: 6px; overflow: hidden; gap: 1px; }
.bar span { min-width: 3px; flex-basis: 0; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0 0; padding: 0; list-style: none;
  font-size: .85rem; color: var(--faint); }
.legend i { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin-right: .4em; }
.bar .sdc, i.sdc { background: var(--sdc); }
.bar .due, i.due { background: var(--due); }
.bar .detected, i.detected { background: var(--series-4); }
.bar .corrected, i.corrected { background: var(--series-2); }
.bar .masked, i.masked { background: var(--masked); }
.map { margin-top: 1rem; }
.map h3 { margin-bottom: .2rem; }
.map p { margin: 0; color: var(--faint); font-size: .9rem; }
.map td { padding: .2rem .35rem; text-align: center; }
.map th + td, .map th + td + td { padding-right: .8rem; text-align: right; }
.map thead th { padding: .34rem .35rem; text-align: center; }
.map thead th:first-child { text-align: left; }
.map thead th:nth-child(2), .map thead th:nth-child(3) { padding-right: .8rem; text-align: right; }
.map td.hot { background: color-mix(in srgb, var(--sdc) var(--part), transparent); }
.map caption { caption-side: bottom; text-align: left; color: var(--faint); padding-top: .4rem; }
dl.facts dd small { color: var(--faint); }
footer { color: var(--faint); font-size: .85rem; padding-top: 2rem; padding-bottom: 3rem; }
@media (max-width: 40rem) {
  dl.facts { grid-template-columns: 1fr; gap: 0; }
  dl.facts dd { margin-bottom: .5rem; }
  .card { padding: .9rem .8rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
}
@media print {
  body { font-size: 10pt; background: #fff; }
  header, main, footer { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .sections, .plots { display: block; }
  .card { padding: .7rem .9rem; margin-bottom: .8rem; }
  .verdict, .tiles div, figure svg, tr { break-inside: avoid; }
  h2, h2 + p, figcaption { break-after: avoid; }
  h2 + p { max-width: none; }
  ul.findings { columns: 1; }
  figure svg { width: auto; max-width: 13cm; max-height: 19cm; margin: 0 auto; }
  figure .heat-map svg { width: 100%; max-width: none; max-height: none; }
  table { font-size: .8rem; }
  .scroll { max-height: none; overflow: visible; }
  thead th, tbody th { position: static; }
  th, td { white-space: normal; }
  .plots td small { display: inline; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

STYLE_SHEET = (
    f":root {{ color-scheme: light dark; {LIGHT}{HEAT_LIGHT}}}\n"
    f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {DARK}{HEAT_DARK}}} }}\n{_RULES}{HEAT}"
)
