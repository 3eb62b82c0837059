// The workbooks of sentinel/.

// A workbook may have 131,072 characters: the most that Azure Resource Manager takes in one text.
@export()
var workbooks = [
  {
    id: 'MimecastCloudIntegrated'
    name: 'Mimecast Cloud Integrated'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegrated.json'))
  }
  {
    id: 'MimecastCloudIntegratedPeople'
    name: 'Mimecast Cloud Integrated: people'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedPeople.json'))
  }
  {
    id: 'MimecastCloudIntegratedConnector'
    name: 'Mimecast Cloud Integrated: connector'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedConnector.json'))
  }
  {
    id: 'MimecastCloudIntegratedFleet'
    name: 'Mimecast Cloud Integrated: fleet'
    text: string(loadJsonContent('../../sentinel/workbook/MimecastCloudIntegratedFleet.json'))
  }
]
