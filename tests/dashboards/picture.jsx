// Draws a Grafana dashboard with Grafana's own components (`@grafana/ui`, `@grafana/data`), for `picture.py`.
// `life.json`: the dashboard's JSON, and Prometheus' answers to each panel's queries.
import { createTheme, dateTime, FieldColorModeId, FieldType, getDisplayProcessor } from '@grafana/data';
import { BarGauge, BigValue, GlobalStyles, PanelChrome, ThemeContext, TimeSeries, VizRepeater } from '@grafana/ui';
import '@grafana/react-data-grid/lib/styles.css';
import { TableNG } from '@grafana/ui/unstable';
import { createRoot } from 'react-dom/client';

import 'uplot/dist/uPlot.min.css';

import life from './life.json';

const MARGIN = 16;
const CELL = 38; // pixels of a unit of height in `gridPos`, of which 8 are the space between two panels: as in Grafana
const COLUMN = (life.width - 2 * MARGIN + 8) / 24;
const theme = createTheme({ colors: { mode: 'dark' } });
const [from, to] = [dateTime(life.begin * 1000), dateTime(life.end * 1000)];
const timeRange = { from, to, raw: { from, to } };

const legend = (format, labels) =>
  format ? format.replace(/{{\s*(\w+)\s*}}/g, (_, name) => labels[name] ?? '') : 'Value';
const number = (text) => (Number.isNaN(Number(text)) ? null : Number(text)); // Prometheus writes NaN for 0 / 0

// A field with what the panel's JSON says about it, as Grafana's own `applyFieldOverrides` would have it.
function field(panel, name, values, { labels = {}, seriesIndex = 0, type = FieldType.number } = {}) {
  const defaults = panel.fieldConfig.defaults;
  const color = panel.type === 'timeseries' ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds;
  const config = {
    color: { mode: color },
    thresholds: { mode: 'absolute', steps: [{ color: 'green', value: -Infinity }] },
    ...structuredClone(defaults),
    displayName: name,
  };
  for (const step of config.thresholds.steps) step.value ??= -Infinity;
  for (const override of panel.fieldConfig.overrides) {
    const { id, options } = override.matcher;
    const pattern = options.replace(/^\/|\/$/g, '');
    if (id === 'byName' ? options === name : id === 'byRegexp' && new RegExp(pattern).test(name)) {
      for (const property of override.properties) set(config, property.id, property.value);
    }
  }
  const made = { name, type, values, config, labels, state: { seriesIndex } };
  made.display = getDisplayProcessor({ field: made, theme });
  return made;
}

function set(config, path, value) {
  const keys = path.split('.');
  const last = keys.pop();
  const place = keys.reduce((object, key) => (object[key] ??= {}), config);
  place[last] = value;
}

function frames(panel) {
  let index = 0;
  return life.answers[panel.id].flatMap((series, query) =>
    series.map(({ metric, value: only, values = [only] }) => {
      const times = values.map(([at]) => at * 1000);
      const name = legend(panel.targets[query].legendFormat, metric);
      const numbers = values.map(([, text]) => number(text));
      const value = field(panel, name, numbers, { labels: metric, seriesIndex: index++ });
      return {
        refId: panel.targets[query].refId,
        length: times.length,
        fields: [{ name: 'Time', type: FieldType.time, values: times, config: { interval: life.step * 1000 } }, value],
      };
    })
  );
}

function Stat({ panel, width, height }) {
  const [frame] = frames(panel);
  const [time, value] = frame.fields;
  const known = value.values.filter((one) => one !== null);
  const [min, max] = [panel.fieldConfig.defaults.min ?? Math.min(...known), Math.max(...known)];
  const line = { ...value, state: { range: { min, max, delta: max - min } } };
  return (
    <BigValue
      theme={theme}
      width={width}
      height={height}
      value={value.display(known.at(-1))}
      sparkline={panel.options.graphMode === 'none' ? undefined : { x: time, y: line }}
      colorMode={panel.options.colorMode}
      graphMode={panel.options.graphMode}
      textMode="value"
    />
  );
}

function Lines({ panel, width, height }) {
  return (
    <TimeSeries
      frames={frames(panel)}
      timeRange={timeRange}
      timeZone="utc"
      width={width}
      height={height}
      legend={{ calcs: [], ...panel.options.legend }}
      options={{}}
    />
  );
}

function Bars({ panel, width, height }) {
  const { displayMode, orientation, showUnfilled, namePlacement, valueMode } = panel.options;
  const values = frames(panel).map(({ fields: [, value] }) => ({
    field: value,
    value: { ...value.display(value.values.at(-1)), title: value.name },
  }));
  return (
    <VizRepeater
      source={values}
      getValues={() => values}
      renderCounter={0}
      orientation={orientation}
      width={width}
      height={height}
      minVizHeight={16}
      getAlignmentFactors={(all) => ({
        title: all.map(({ value }) => value.title).sort((a, b) => b.length - a.length)[0],
        text: '100%',
      })}
      renderValue={({ value, width, height, alignmentFactors }) => (
        <BarGauge
          theme={theme}
          width={width}
          height={height}
          field={value.field.config}
          display={value.field.display}
          value={value.value}
          orientation={orientation}
          displayMode={displayMode}
          showUnfilled={showUnfilled}
          namePlacement={namePlacement}
          valueDisplayMode={valueMode}
          alignmentFactors={alignmentFactors}
        />
      )}
    />
  );
}

function Rows({ panel, width, height }) {
  const series = life.answers[panel.id].flat();
  const { excludeByName = {}, renameByName = {}, indexByName = {} } =
    panel.transformations?.find(({ id }) => id === 'organize')?.options ?? {};
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].filter((name) => !excludeByName[name]);
  labels.sort((a, b) => (indexByName[a] ?? 99) - (indexByName[b] ?? 99));
  const columns = labels.map((name) =>
    field(panel, renameByName[name] ?? name, series.map(({ metric }) => metric[name]), { type: FieldType.string })
  );
  if (!excludeByName.Value) {
    columns.push(field(panel, renameByName.Value ?? 'Value', series.map(({ value }) => number(value[1]))));
  }
  const data = { length: series.length, fields: columns };
  return <TableNG data={data} width={width} height={height} cellHeight={panel.options.cellHeight} />;
}

const KINDS = { bargauge: Bars, stat: Stat, table: Rows, timeseries: Lines };

function Place({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const style = { position: 'absolute', left: MARGIN + x * COLUMN, top: MARGIN + y * CELL };
  const width = w * COLUMN - 8;
  const height = h * CELL - 8;
  const Kind = KINDS[panel.type];
  return (
    <div style={{ ...style, width, height }}>
      {panel.type === 'row' ? (
        <div style={{ ...theme.typography.h6, padding: 6 }}>⌄ {panel.title}</div>
      ) : (
        <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
          {(innerWidth, innerHeight) => <Kind panel={panel} width={innerWidth} height={innerHeight} />}
        </PanelChrome>
      )}
    </div>
  );
}

createRoot(document.getElementById('page')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    {life.dashboard.panels.map((panel) => (
      <Place key={panel.id} panel={panel} />
    ))}
  </ThemeContext.Provider>
);
