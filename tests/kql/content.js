'use strict';
// Finds every query under sentinel/ (or another folder of the same shape), and in the documents.

const fs = require('node:fs');
const path = require('node:path');
const YAML = require('yaml');

const read = (file) => fs.readFileSync(file, 'utf8');

function files(folder, extension) {
  if (!fs.existsSync(folder)) return [];
  return fs.readdirSync(folder).filter((name) => name.endsWith(extension)).sort()
    .map((name) => path.join(folder, name));
}

/** Rules and hunting queries: `{ name, query, uses }`; `uses` are columns the file counts on. */
function yamlQueries(folder) {
  return files(folder, '.yaml').map((file) => {
    const content = YAML.parse(read(file));
    const uses = new Set(Object.values(content.customDetails ?? {}));
    for (const entity of content.entityMappings ?? []) {
      for (const { columnName } of entity.fieldMappings) uses.add(columnName);
    }
    const shown = content.alertDetailsOverride ?? {};
    const templates = [shown.alertDisplayNameFormat, shown.alertDescriptionFormat].join(' ');
    for (const [, column] of templates.matchAll(/\{\{\s*([^{}]+?)\s*\}\}/g)) uses.add(column);
    for (const column of [shown.alertSeverityColumnName, shown.alertTacticsColumnName]) {
      if (column) uses.add(column);
    }
    return { name: label(file), query: String(content.query ?? ''), uses: [...uses] };
  });
}

/** Every string under a JSON value that `wanted` takes, with where it stands. */
function strings(value, wanted, place = '') {
  if (value === null || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([key, member]) => {
    const here = `${place}/${key}`;
    return typeof member === 'string' && wanted(key, value)
      ? [{ place: here, query: member, item: value }]
      : strings(member, wanted, here);
  });
}

/** The queries of the workbooks' tiles and parameters, with their parameters filled in. */
function workbookQueries(folder) {
  return files(folder, '.json').flatMap((file) => {
    const workbook = JSON.parse(read(file));
    const parameters = new Map();
    (function collect(value) {
      if (value === null || typeof value !== 'object') return;
      if (Array.isArray(value.parameters)) for (const one of value.parameters) parameters.set(one.name, one);
      for (const export_ of value.exportedParameters ?? []) {
        if (!parameters.has(export_.parameterName)) parameters.set(export_.parameterName, {});
      }
      if (value.exportParameterName) parameters.set(value.exportParameterName, {});
      Object.values(value).forEach(collect);
    })(workbook);
    // Only queries of logs (queryType 0, also where none is given) are KQL.
    const isQuery = (key, owner) => key === 'query' && (owner.queryType ?? 0) === 0;
    return strings(workbook, isQuery).filter(({ query }) => query.trim() !== '')
      .map(({ place, query, item }) => ({
        name: `${label(file)} ${item.title ?? item.name ?? place}`,
        query: fillIn(query, parameters),
        uses: columnsUsed(item),
      }));
  });
}

/** The columns that a tile's look and clicks count on; `series` is a chart's own word. */
function columnsUsed({ exportedParameters = [], tileSettings = {}, mapSettings = {} }) {
  const { latitude, longitude, labelSettings, sizeSettings } = mapSettings;
  return [
    ...exportedParameters.map(({ fieldName }) => fieldName),
    tileSettings.titleContent?.columnMatch, tileSettings.leftContent?.columnMatch,
    latitude, longitude, labelSettings, sizeSettings,
  ].filter((column) => column !== undefined);
}

/** A workbook's query as it is sent, with a likely value for each parameter. */
function fillIn(query, parameters) {
  return query.replace(/(['"]?)\{([A-Za-z_]\w*)(?::([\w.]+))?\}/g, (whole, quote, name, part) => {
    const parameter = parameters.get(name);
    if (!parameter) return whole;
    const TIME_RANGE = 4;
    if (parameter.type === TIME_RANGE) {
      const start = 'datetime(2026-01-01T00:00:00Z)', end = 'datetime(2026-01-15T00:00:00Z)';
      return quote + ({ start, end, grain: '1h', query: '> ago(14d)', label: 'Last 14 days' }[part]
        ?? `between (${start} .. ${end})`);
    }
    if (quote) return `${quote}value`;
    return /^-?\d+(\.\d+)?$/.test(String(parameter.value ?? '')) ? String(parameter.value) : "'value'";
  });
}

/** The queries of the data connector's page. */
function connectorQueries(folder) {
  return files(folder, '.json').flatMap((file) => {
    const page = JSON.parse(read(file));
    const isQuery = (key) => ['baseQuery', 'query', 'lastDataReceivedQuery'].includes(key);
    const criteria = [];
    (function collect(value) {
      if (value === null || typeof value !== 'object') return;
      for (const one of [].concat(value.connectivityCriterias ?? [], value.connectivityCriteria ?? [])) {
        if (one.type === 'IsConnectedQuery' || one.type === 'isConnectedQuery') criteria.push(...one.value);
      }
      Object.values(value).forEach(collect);
    })(page);
    return [
      ...strings(page, isQuery).map(({ place, query }) => ({ name: `${label(file)} ${place}`, query, uses: [] })),
      ...criteria.map((query, index) => ({ name: `${label(file)} connectivity ${index}`, query, uses: [] })),
    ];
  });
}

/** The blocks of KQL in the documents; `uses` is empty, since nothing counts on their columns. */
function documentQueries(folder) {
  return files(folder, '.md').flatMap((file) => {
    const blocks = [...read(file).matchAll(/^( *)```kusto\n(.*?)^\1```$/gms)];
    return blocks.map(([, indent, text], index) => ({
      name: `${label(file)} block ${index + 1}`, query: text.replaceAll(`\n${indent}`, '\n'), uses: [],
    }));
  });
}

/** The rows of the first Markdown table with the header `column | type`. */
function documentedColumns(file) {
  return [...read(file).matchAll(/^\| `([^`]+)` \| (\w+) \|/gm)].map(([, name, type]) => ({ name, type }));
}

const label = (file) => path.join(path.basename(path.dirname(file)), path.basename(file));

module.exports = { read, files, yamlQueries, workbookQueries, connectorQueries, documentQueries, documentedColumns };
