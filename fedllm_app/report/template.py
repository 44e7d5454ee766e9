"""The page as text: one file that loads nothing, reads on a telephone and prints.

Templates are Python strings because the bundle that Flower ships holds no .html files.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2127; --soft: #5b6570; --line: #dfe3e8;
  --paper: #ffffff; --raised: #f6f7f9; --accent: #0072b2; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4af;
  --line: #333a42; --paper: #15181c; --raised: #1d2126; --accent: #56b4e9; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Liberation Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 64px; }
header { margin-bottom: 28px; }
.kind { margin: 0; color: var(--soft); font-size: 13px; }
h1 { margin: 2px 0 4px; font-size: 30px; line-height: 1.2; letter-spacing: -0.01em;
  overflow-wrap: anywhere; }
.about { margin: 0; color: var(--soft); overflow-wrap: anywhere; }
h2 { margin: 44px 0 12px; font-size: 19px; }
h3 { margin: 0; font-size: 15px; }
p.note { margin: 8px 0 0; color: var(--soft); font-size: 13.5px; max-width: 78ch; }
.progress { margin: 12px 0 0; }
.progress progress { width: 100%; height: 8px; display: block; margin-bottom: 4px;
  accent-color: var(--accent); }
.tiles { display: grid; gap: 1px;
  grid-template-columns: repeat(var(--tiles), minmax(min-content, 1fr));
  margin: 0; background: var(--line); border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden; }
.tiles div { background: var(--paper); padding: 14px 16px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; }
.tiles .big { font-size: 25px; font-weight: 600; line-height: 1.3; letter-spacing: -0.01em;
  white-space: nowrap; }
.tiles .sub { color: var(--soft); font-size: 13px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 32px 36px; align-items: start; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; margin: 6px 0 4px; }
figcaption { color: var(--soft); font-size: 13px; }
.nothing { color: var(--soft); font-size: 13.5px; border: 1px dashed var(--line);
  border-radius: 8px; padding: 18px 16px; margin-top: 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: baseline; }
th { font-weight: 600; font-size: 13px; color: var(--soft); }
tbody th { color: var(--ink); font-size: inherit; font-weight: 500; }
td.n, th.n { text-align: right; white-space: nowrap; }
td.n:last-child, th.n:last-child { padding-right: 0; }
td .sub, th .sub { display: block; color: var(--soft); font-size: 12.5px; font-weight: 400; }
.swatch ~ .sub { margin-left: 20px; }
.runs tbody th { white-space: nowrap; }
.fit { width: auto; min-width: min(100%, 420px); }
.swatch { display: inline-block; width: 11px; height: 11px; border-radius: 3px;
  margin-right: 9px; }
.settings { columns: 3 300px; column-gap: 36px; }
.settings section { break-inside: avoid; margin-bottom: 20px; }
.settings h3 { padding-bottom: 4px; border-bottom: 1px solid var(--line); }
.settings td { padding: 3px 0; border: 0; font-size: 13.5px; overflow-wrap: anywhere; }
.settings td:first-child { color: var(--soft); padding-right: 14px; width: 46%; }
code, .settings td, .differ td { font-family: ui-monospace, "SF Mono", Menlo, Consolas,
  "Liberation Mono", monospace; font-size: 12.5px; }
.differ th { white-space: nowrap; }
summary { cursor: pointer; color: var(--accent); margin: 16px 0 12px; }
footer { margin-top: 48px; padding-top: 14px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 13px; overflow-wrap: anywhere; }
@media (max-width: 980px) { .tiles { grid-template-columns: repeat(3, 1fr); }
  .tiles div:last-child:nth-child(3n+2) { grid-column: span 2; } }
@media (max-width: 860px) { .tiles { grid-template-columns: 1fr 1fr; }
  .tiles div:last-child:nth-child(odd) { grid-column: span 2; } }
@media (max-width: 600px) { main { padding: 24px 16px 48px; } h1 { font-size: 25px; }
  .tiles div { padding: 12px; }
  .tiles .big { font-size: 21px; }
  .runs tbody th { position: sticky; left: 0; background: var(--paper); white-space: normal;
    min-width: 128px; overflow-wrap: anywhere; } .runs td { font-size: 14px; } }
@media print { main { max-width: none; padding: 0; } figure { break-inside: avoid; } }
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style }}</style>
</head>
<body>
<main>
<header>
<p class="kind">{{ kind }}</p>
<h1>{{ title }}</h1>
<p class="about">{{ about }}</p>
{% if progress %}
<p class="progress">
{%- if share %}<progress max="1" value="{{ share | round(4) }}"></progress>{% endif %}
{{- progress }}</p>
{% endif %}
</header>
{% if tiles %}
<dl class="tiles" style="--tiles: {{ tiles | length }}">
{% for name, value, sub in tiles %}
<div><dt>{{ name }}</dt><dd class="big">{{ value }}</dd><dd class="sub">{{ sub }}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% for table in tables if table.first %}{{ show(table) }}{% endfor %}
<h2>Plots</h2>
<div class="plots">
{% for plot in plots %}
<figure>
<h3>{{ plot.title }}</h3>
{% if plot.svg %}
{{ plot.svg | safe }}
<figcaption>{{ plot.caption }}</figcaption>
{% else %}
<p class="nothing">{{ plot.caption }}</p>
{% endif %}
</figure>
{% endfor %}
</div>
{% for table in tables if not table.first %}{{ show(table) }}{% endfor %}
<h2>{{ settings_title }}</h2>
{% if settings %}
<div class="settings">
{% for namespace, rows in settings.items() %}
<section><h3>{{ namespace }}</h3><table><tbody>
{% for key, value in rows %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></section>
{% endfor %}
</div>
{% else %}
<p class="nothing">There is no config.toml in the folder.</p>
{% endif %}
<footer>{{ footer }}</footer>
</main>
</body>
</html>
"""

TABLE = """
<h2>{{ table.title }}</h2>
{% if table.rows %}
<div class="wide"><table class="{{ table.look }}">
<thead><tr>
{% for name in table.head %}<th{% if table.numbers and not loop.first %} class="n"{% endif %}>
{{- name }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row.cells %}
{% if loop.first %}<th scope="row">
{%- if row.colour %}
<span class="swatch" style="background:{{ themed(row.colour) }}"></span>
{%- endif %}
{{- cell.text }}{% else %}<td{% if table.numbers %} class="n"{% endif %}>{{ cell.text }}{% endif %}
{%- if cell.sub %}<span class="sub">{{ cell.sub }}</span>{% endif %}
{%- if loop.first %}</th>{% else %}</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endif %}
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
"""
