// What the package and its templates have in common, and the shape of both.
//
// The shape is that of the templates that Microsoft's own tool makes for the solutions of Content hub:
// github.com/Azure/Azure-Sentinel, Solutions/*/Package/mainTemplate.json, there with the API version
// 2023-04-01-preview; 2023-11-01 is the first that is stable and has the same properties.

var file = loadJsonContent('../../sentinel/solution.json')

@export()
var solution = {
  ...file
  id: '${file.publisherId}.${file.offerId}'
  // The program's, without what follows the plus.
  version: split(trim(loadTextContent('../../sentinel/version.txt')), '+')[0]
  schema: '3.0.0'
}

var suffixes = {
  AnalyticsRule: 'ar'
  DataConnector: 'dc'
  HuntingQuery: 'hq'
  Parser: 'pr'
  Solution: 'sl'
  Workbook: 'wb'
}

var origin = {
  source: { kind: 'Solution', name: solution.name, sourceId: solution.id }
  author: { name: solution.author }
  support: { tier: 'Community', name: solution.author }
}

// What one version of one piece of content is called in Content hub.
func productId(kind string, contentId string, version string) string =>
  '${solution.id}-${suffixes[kind]}-${uniqueString(solution.id, kind, contentId, version)}'

// Content that is there belongs to the piece of the package that it was made of.
@export()
func metadata(piece object) object => {
  name: '${piece.kind}-${last(split(piece.madeId, '/'))}'
  properties: {
    parentId: piece.madeId
    contentId: piece.id
    kind: piece.kind
    version: piece.version
    ...origin
  }
}

@export()
func packageOf(pieces array) object => {
  contentId: solution.id
  contentKind: 'Solution'
  contentProductId: productId('Solution', solution.id, solution.version)
  contentSchemaVersion: solution.schema
  version: solution.version
  displayName: solution.name
  publisherDisplayName: solution.author
  description: solution.description
  firstPublishDate: solution.firstPublishDate
  providers: solution.providers
  categories: { domains: solution.domains }
  dependencies: {
    operator: 'AND'
    criteria: map(pieces, piece => { kind: piece.kind, contentId: piece.id, version: piece.version })
  }
  ...origin
}

// A piece has kind, id (of the content), version, name, madeId (of the resource that is made of it) and
// made (that resource, as a template has it).
@export()
func templateOf(piece object, workspaceName string) object => {
  contentId: piece.id
  contentKind: piece.kind
  contentProductId: productId(piece.kind, piece.id, piece.version)
  contentSchemaVersion: solution.schema
  packageId: solution.id
  packageKind: 'Solution'
  packageName: solution.name
  packageVersion: solution.version
  version: piece.version
  displayName: piece.name
  mainTemplate: {
    '$schema': 'https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#'
    contentVersion: piece.version
    parameters: {}
    variables: {}
    resources: [
      piece.made
      {
        type: 'Microsoft.OperationalInsights/workspaces/providers/metadata'
        apiVersion: '2023-11-01'
        name: '${workspaceName}/Microsoft.SecurityInsights/${metadata(piece).name}'
        properties: metadata(piece).properties
      }
    ]
  }
  ...origin
}

@export()
func templateName(piece object, workspaceId string) string =>
  // In one spelling: Azure itself writes ids in more than one.
  'mimecast-sentinel-${suffixes[piece.kind]}-${uniqueString(toLower(workspaceId), piece.id)}'
