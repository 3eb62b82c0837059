'use strict';
// Microsoft's KQL parser and binder.

require('@kusto/language-service-next/bridge.min.js');
require('@kusto/language-service-next/Kusto.Language.Bridge.min.js');

const { KustoCode, GlobalState, Symbols, Syntax } = globalThis.Kusto.Language;

const listed = (list) => Array.from({ length: list.Count }, (_, index) => list.getItem(index));

// What Log Analytics adds to the columns of each table.
const PLATFORM_COLUMNS =
  'TenantId:string, SourceSystem:string, Type:string, _ResourceId:string, _SubscriptionId:string, ' +
  '_BilledSize:real, _IsBillable:string, _ItemId:string';

// Functions that every workspace of Microsoft Sentinel has.
const SENTINEL_FUNCTIONS = {
  _GetWatchlist: ['(watchlistAlias:string)',
    'datatable(_DTItemId:string, LastUpdatedTimeUTC:datetime, SearchKey:string, WatchlistItem:dynamic)[]'],
};

/** A workspace: `tables` by name with schemas like `(a:string)`, `functions` by name with parameters and KQL. */
function workspace(tables, functions = {}) {
  const members = Object.entries(tables).map(([name, schema]) =>
    Symbols.TableSymbol.From(schema).WithName(name));
  for (const [name, [parameters, body]] of Object.entries({ ...SENTINEL_FUNCTIONS, ...functions })) {
    members.push(new Symbols.FunctionSymbol.$ctor16(name, parameters, `{\n${body}\n}`, null));
  }
  return GlobalState.Default.WithDatabase(new Symbols.DatabaseSymbol.ctor('workspace', members));
}

/** The table's own columns and the platform's, as a schema. */
function tableSchema(kusto) {
  const own = kusto.Properties.map(({ Name, Type }) => `['${Name}']:${Type}`).join(', ');
  return `(${own}, ${PLATFORM_COLUMNS})`;
}

/** The columns of a schema such as `(a:string)`: name and type of each. */
function columnsOf(schema) {
  return listed(Symbols.TableSymbol.From(schema).Columns).map(({ Name, Type }) => ({ name: Name, type: Type.Name }));
}

/** Everything the parser and binder have to say of a query, and the columns of its result. */
function bind(query, globals) {
  const code = KustoCode.ParseAndAnalyze(query, globals);
  const faults = listed(code.GetDiagnostics()).map((diagnostic) => {
    const before = query.slice(0, diagnostic.Start).split('\n');
    const place = `${before.length}:${before.at(-1).length + 1}`;
    return `${diagnostic.Severity} at ${place}: ${diagnostic.Message}`;
  });
  const result = code.ResultType;
  if (faults.length === 0 && !(result instanceof Symbols.TableSymbol)) faults.push('it gives no table');
  const columns = result instanceof Symbols.TableSymbol
    ? listed(result.Columns).map(({ Name, Type }) => ({ name: Name, type: Type.Name }))
    : [];
  const unknown = columns.filter(({ type }) => type === 'unknown').map(({ name }) => name);
  if (faults.length === 0 && unknown.length > 0) faults.push(`columns of no known type: ${unknown}`);
  return { faults, columns };
}

// What a rule's transform may use (Azure Monitor, "Supported KQL features in transformations").
// The service's list of functions is longer; look a name up there before it is added here.
const TRANSFORM_OPERATORS = ['Extend', 'Project', 'Print', 'Filter', 'Parse', 'ProjectAway', 'ProjectRename'];
const TRANSFORM_FUNCTIONS = ['tostring', 'tolong', 'tobool', 'todatetime', 'iif', 'ago', 'now', 'isnotempty'];
// The whole of what it lists: neither in~ nor has_any.
const TRANSFORM_TEXT = ['==', '!=', '=~', '!~', 'in', '!in', 'matches regex',
  ...['contains', 'has', 'startswith', 'endswith'].flatMap((name) => [name, `!${name}`, `${name}_cs`, `!${name}_cs`])];
const TRANSFORM_SIGNS = ['and', 'or', '<', '<=', '>', '>=', '+', '-', '*', '/', '%', ...TRANSFORM_TEXT];
const TRANSFORM_LIMIT = 15360;

/** What in a transform the service would refuse. */
function transformFaults(transform) {
  const faults = [];
  if (transform.length > TRANSFORM_LIMIT) faults.push(`it is longer than ${TRANSFORM_LIMIT} characters`);
  const { Syntax: root } = KustoCode.Parse(transform, GlobalState.Default);
  Syntax.SyntaxElement.WalkNodes(root, (node) => {
    const kind = globalThis.Bridge.getTypeName(node).split('.').at(-1);
    if (node instanceof Syntax.QueryOperator && !TRANSFORM_OPERATORS.includes(kind.replace('Operator', ''))) {
      faults.push(`a transform may not use "${node.toString().trim()}"`);
    }
    if (node instanceof Syntax.FunctionCallExpression && !TRANSFORM_FUNCTIONS.includes(node.Name.SimpleName)) {
      faults.push(`a transform may not use the function ${node.Name.SimpleName}`);
    }
    if (/^(Binary|In|HasAny|HasAll|Between)Expression$/.test(kind) && !TRANSFORM_SIGNS.includes(node.Operator.Text)) {
      faults.push(`a transform may not use ${node.Operator.Text}`);
    }
  });
  return faults;
}

// What a query of a Basic or Auxiliary table may not have (Azure Monitor, "Query data in a Basic and Auxiliary table"):
// functions, and operators on several tables but for lookup and union.
const OF_SEVERAL_TABLES = ['Join', 'Find', 'Search', 'Externaldata', 'Invoke'];

/** What in a query of the cheap table the service would refuse; `functions` are the workspace's. */
function cheapQueryFaults(query, functions) {
  const faults = [];
  const { Syntax: root } = KustoCode.Parse(query, GlobalState.Default);
  Syntax.SyntaxElement.WalkNodes(root, (node) => {
    const kind = globalThis.Bridge.getTypeName(node).split('.').at(-1);
    if (node instanceof Syntax.QueryOperator && OF_SEVERAL_TABLES.includes(kind.replace('Operator', ''))) {
      faults.push(`a query of the cheap table may not use "${node.toString().trim()}"`);
    }
    if (node instanceof Syntax.FunctionDeclaration) faults.push('a query of the cheap table may not have a function');
  });
  // In a comment too: Log Analytics takes it for a call (Azure-Sentinel #13587).
  for (const name of functions) {
    if (new RegExp(`\\b${name}\\b`).test(query)) faults.push(`a query of the cheap table may not name ${name}`);
  }
  return faults;
}

module.exports = { workspace, tableSchema, columnsOf, bind, transformFaults, cheapQueryFaults };
