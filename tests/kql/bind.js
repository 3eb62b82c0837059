'use strict';
// Parses and binds every query under sentinel/ and in docs/ with Microsoft's own parser. No diagnostics pass.
// Prints "ok …" or "FAIL …" for each check.

const fs = require('node:fs');
const path = require('node:path');
const YAML = require('yaml');
const kusto = require('./kusto');
const content = require('./content');

const SENTINEL = path.resolve(__dirname, '../../sentinel');
const DOCS = path.resolve(__dirname, '../../docs');
const TABLE = 'Cloud_Integrated_CL';
// Each calls only those before it.
const FUNCTIONS = [
  'MimecastCIRows', 'MimecastCI', 'MimecastCIByRecipient', 'MimecastCloudIntegrated',
  'MimecastFreeMail', 'MimecastOwnDomains', 'MimecastVips', 'MimecastSimulations',
  'vimEmailEventMimecastCloudIntegrated', 'ASimEmailEventMimecastCloudIntegrated',
  'IdentityUsers', 'IdentityAddresses', 'IdentityGroupMembers', 'IdentityRisk', 'IdentityRiskOpen', 'IdentityRiskyUsers',
];
// This connector's other tables.
const OTHERS = ['MimecastConnectorHealth_CL', 'DirectoryUsers_CL', 'DirectoryGroups_CL', 'DirectoryGroupMembers_CL',
  'EntraRiskDetections_CL', 'EntraRiskyUsers_CL'];
const CHEAP = 'Cloud_Integrated_Cheap_CL';
// A query and no function.
const ALL = 'MimecastCIAll';

const described = (file) => JSON.parse(content.read(path.join(SENTINEL, 'schema', file)));
// Of each table: its stream and transform in the rule, and its columns.
const rules = { [TABLE]: described('rule.json') };
const schemas = { [TABLE]: described(`${TABLE}.kusto.json`) };
for (const table of OTHERS) {
  rules[table] = described(`${table}.rule.json`);
  schemas[table] = described(`${table}.kusto.json`);
}
// The cheap table has texts for dynamics (arm/main.bicep).
schemas[CHEAP] = { Properties: schemas[TABLE].Properties.map((column) => ({
  ...column, Type: column.Type === 'dynamic' ? 'string' : column.Type })) };
const cheapEvents = JSON.parse(content.read(path.resolve(__dirname, '../../arm/cheap.json')));
const generations = JSON.parse(content.read(path.join(__dirname, 'generations.json')));
const microsofts = JSON.parse(content.read(path.join(__dirname, 'tables.json')));
// The workspace's functions: of each its parameters, as a deployment declares them, and its KQL.
const functions = Object.fromEntries(FUNCTIONS.map((name) => {
  const { FunctionParams } = YAML.parse(content.read(path.join(SENTINEL, `parser/${name}.yaml`)));
  const parameters = (FunctionParams ?? []).map(({ Name, Type, Default }) => `${Name}:${Type}=${Default}`);
  return [name, [`(${parameters.join(', ')})`, content.read(path.join(SENTINEL, `parser/${name}.kql`))]];
}));
const asim = JSON.parse(content.read(path.join(__dirname, 'asim.json')));
const documented = content.documentedColumns(path.join(SENTINEL, 'parser/README.md'));
const ours = kusto.tableSchema(schemas[TABLE]);

function report(name, faults) {
  console.log(faults.length === 0 ? `ok   ${name}` : `FAIL ${name}\n     ${faults.join('\n     ')}`);
}

/** How two lists of columns differ, in names, types or order. */
function differences(actual, expected) {
  const shown = (columns) => columns.map(({ name, type }) => `${name}: ${type}`);
  const [is, should] = [shown(actual), shown(expected)];
  const faults = [
    ...should.filter((column) => !is.includes(column)).map((column) => `missing: ${column}`),
    ...is.filter((column) => !should.includes(column)).map((column) => `not expected: ${column}`),
  ];
  return faults.length === 0 && is.join() !== should.join() ? ['the order differs'] : faults;
}

const tables = { ...microsofts };
for (const [table, schema] of Object.entries(schemas)) tables[table] = kusto.tableSchema(schema);
const scope = kusto.workspace(tables, functions);

/** What is wrong with a query of rules, hunting, workbook or connector. */
function queryFaults({ query, uses }) {
  const { faults, columns } = kusto.bind(query, scope);
  const names = columns.map(({ name }) => name);
  const absent = uses.filter((column) => !names.includes(column));
  return [...faults, ...absent.map((column) => `the file uses the column ${column}, which the query does not give`)];
}

function transformFaults(transform, table = TABLE) {
  const [{ columns }] = Object.values(rules[table === CHEAP ? TABLE : table].streamDeclarations);
  const types = { boolean: 'bool' };
  const source = `(${columns.map(({ name, type }) => `${name}:${types[type] ?? type}`).join(', ')})`;
  const { faults, columns: result } = kusto.bind(transform, kusto.workspace({ source }));
  const expected = schemas[table].Properties.map(({ Name, Type }) => ({ name: Name, type: Type }));
  const inAnyOrder = (list) => [...list].sort((a, b) => a.name.localeCompare(b.name));
  return [...kusto.transformFaults(transform), ...faults,
    ...differences(inAnyOrder(result), inAnyOrder(expected))];
}

function checkTransforms() {
  for (const [table, { transformKql }] of Object.entries(rules)) {
    report(`the rule's transform makes the columns of ${table}`, transformFaults(transformKql, table));
  }
  // As arm/modules/rule.bicep writes them; tests/arm holds it to that.
  for (const { name, cheap } of cheapEvents.filter((choice) => choice.cheap !== '')) {
    const where = (mark) => `${rules[TABLE].transformKql} | where iif(${cheap}, 1, 0) == ${mark}`;
    const text = ' | extend authResults = tostring(authResults), AdditionalFields = tostring(AdditionalFields)';
    report(`the rule's two transforms make the columns of both tables, CheapEvents ${name}`,
      [...transformFaults(where(0)), ...transformFaults(where(1) + text, CHEAP)]);
  }
}

/** The query of both tables, also as the template writes it for a table of another name. */
function checkQueryOfAll() {
  const query = content.read(path.join(SENTINEL, `parser/${ALL}.kql`));
  const renamed = query.replaceAll(TABLE, 'Other_CL');
  const scopes = { [query]: tables, [renamed]: { Other_CL: ours, [CHEAP]: tables[CHEAP] } };
  const faults = Object.entries(scopes).flatMap(([one, known]) => {
    const { faults: found, columns } = kusto.bind(one, kusto.workspace(known));
    return [...found, ...differences(columns, documented)];
  });
  report(`${ALL} gives the columns of the functions, and may read the cheap table`,
    [...faults, ...kusto.cheapQueryFaults(query, FUNCTIONS)]);
}

/** The functions against the table as each of the connectors made it, alone and one after another. */
function checkFunctions() {
  const together = (...schemas) => {
    const columns = new Map(schemas.flatMap((one) => one.slice(1, -1).split(', ')).map((column) => {
      const [name] = column.replace(/[[\]']/g, '').split(':');
      return [name, column];
    }));
    return `(${[...columns.values()].join(', ')})`;
  };
  const cases = { 'this connector': ours, ...generations };
  cases['older, then this connector'] = together(generations.older, ours);
  cases['older, newer, then this connector'] = together(generations.older, generations.newer, ours);
  for (const [name, tableSchema] of Object.entries(cases)) {
    report(`the functions over the table of: ${name}`, functionFaults({ [TABLE]: tableSchema }, functions));
  }
  report('the functions over another table beside the default one', otherTableFaults());
  report('the functions of identities where there is no table of any', withoutTablesFaults());
  report('the ASIM parsers have columns and filters of the schema EmailEvent', emailEventFaults());
  for (const name of FUNCTIONS) report(`the YAML of ${name} has the same KQL`, yamlFaults(name));
}

/** Each function's own text, and what it gives a query that uses all that it can be given. */
function functionFaults(given, known) {
  const there = kusto.workspace({ ...tables, ...given }, known);
  const all = 'starttime=ago(1d), endtime=now(), type="entities", arrivedafter=ago(1h), ' +
    'threats=dynamic(["MALWARE"]), senders=dynamic(["a@example.net"]), disabled=false';
  const faults = Object.entries(known).flatMap(([name, [parameters, body]]) => {
    const declared = parameters.slice(1, -1).split(', ').filter((one) => one !== '');
    const given = declared.map((one) => `let ${one.replace(/:\w+=/, ' = ')};\n`).join('');
    return kusto.bind(given + body, there).faults.map((fault) => `${name}: ${fault}`);
  });
  for (const call of ['MimecastCloudIntegrated', 'MimecastCI()', `MimecastCI(${all})`]) {
    const { faults: found, columns } = kusto.bind(call, there);
    faults.push(...[...found, ...differences(columns, documented)].map((fault) => `${call}: ${fault}`));
  }
  for (const call of [`MimecastCIRows(${all})`, `MimecastCIByRecipient(${all}) | project Recipient`]) {
    faults.push(...kusto.bind(call, there).faults.map((fault) => `${call}: ${fault}`));
  }
  return faults;
}

/** What is wrong with these functions where none of their tables is there: a union leaves those out, with a warning. */
function withoutTablesFaults() {
  const names = FUNCTIONS.filter((name) => name.startsWith('Identity'));
  const none = kusto.workspace({}, Object.fromEntries(names.map((name) => [name, functions[name]])));
  return names.flatMap((name) => kusto.bind(functions[name][1], none).faults
    .filter((fault) => fault.startsWith('Error'))
    .map((fault) => `${name}: ${fault}`));
}

/** Each column is one of the schema's, of its type; none that is mandatory is missing, and no filter. */
function emailEventFaults() {
  const schema = new Map(kusto.columnsOf(asim.columns).map(({ name, type }) => [name, type]));
  const [filters] = functions.vimEmailEventMimecastCloudIntegrated;
  const faults = filters === asim.filters ? [] : [`its filters are ${filters}`];
  for (const call of ['vimEmailEventMimecastCloudIntegrated()', 'ASimEmailEventMimecastCloudIntegrated()']) {
    const { faults: found, columns } = kusto.bind(call, scope);
    const missing = asim.mandatory.filter((field) => !columns.some(({ name }) => name === field));
    const wrong = columns.filter(({ name, type }) => schema.get(name) !== type).map(({ name, type }) => `${name}: ${type}`);
    faults.push(...found, ...missing.map((field) => `${call} lacks ${field}`),
      ...wrong.map((column) => `${call} has ${column}, not as in the schema`));
  }
  return faults;
}

/** What the template does to the functions when the table has another name: both are read. */
function otherTableFaults() {
  const [parameters, rows] = functions.MimecastCIRows;
  const leg = `(${TABLE} | extend IngestionTime = ingestion_time() | invoke rows())`;
  const mentions = Object.values(functions).map(([, body]) => body).join('\n').split(TABLE).length - 1;
  if (!rows.includes(leg) || mentions !== 1) return [`"${leg}" is not their only mention of the table`];
  const both = rows.replace(leg, `${leg},\n    ${leg.replace(TABLE, 'Other_CL')}`);
  const two = { Other_CL: ours, [TABLE]: generations['newer, other types'] };
  return functionFaults(two, { ...functions, MimecastCIRows: [parameters, both] });
}

function yamlFaults(name) {
  const file = path.join(SENTINEL, `parser/${name}.yaml`);
  const [, body] = functions[name];
  const [head] = content.read(file).split('FunctionQuery:');
  const indented = body.trimEnd().replace(/^(?=.)/gm, '  ');
  if (process.argv.includes('--write')) fs.writeFileSync(file, `${head}FunctionQuery: |\n${indented}\n`);
  const yaml = YAML.parse(content.read(file));
  const faults = yaml.FunctionQuery === body ? []
    : ['FunctionQuery differs from the .kql file; `node tests/kql/bind.js --write` copies it'];
  for (const key of ['FunctionName', 'FunctionAlias']) {
    if (yaml[key] !== name) faults.push(`${key} is not ${name}`);
  }
  return faults;
}

function checkContent() {
  const kinds = {
    rules: content.yamlQueries, hunting: content.yamlQueries,
    workbook: content.workbookQueries, connector: content.connectorQueries,
  };
  for (const [kind, queries] of Object.entries(kinds)) {
    const found = queries(path.join(SENTINEL, kind));
    if (found.length === 0) console.log(`SKIPPED: sentinel/${kind} has no queries yet`);
    for (const one of found) report(`${one.name} binds`, queryFaults(one));
  }
}

function checkDocuments() {
  const found = [DOCS, path.join(SENTINEL, 'parser')].flatMap(content.documentQueries);
  report('the documents have queries', found.length === 0 ? ['none was found'] : []);
  for (const one of found) report(`${one.name} binds`, queryFaults(one));
}

/** Queries made wrong on purpose go the same way; each must be found out. */
function checkWrongOnes() {
  for (const file of content.files(path.join(__dirname, 'wrong'), '.kql')) {
    const [first, ...rest] = content.read(file).split('\n');
    const [, expected] = first.match(/^\/\/ found out by: (.+)$/);
    const query = rest.join('\n');
    const name = path.basename(file, '.kql');
    const faults = name.startsWith('transform') ? transformFaults(query)
      : name.startsWith('cheap') ? kusto.cheapQueryFaults(query, FUNCTIONS)
        : queryFaults({ query, uses: ['EventId'] });
    report(`a wrong query is found out: ${name}`, faults.some((fault) => fault.includes(expected)) ? []
      : [`expected "${expected}", got: ${faults.join('; ') || 'nothing'}`]);
  }
}

checkTransforms();
checkFunctions();
checkQueryOfAll();
checkContent();
checkDocuments();
checkWrongOnes();
