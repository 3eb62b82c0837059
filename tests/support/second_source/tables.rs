//! Its two tables: numbers of both kinds, no time of the event, and names of their own.

use mimecast_sentinel::table::{Column, ColumnType, From, Table};

pub static READINGS: Table =
    Table::new("Thermometer_Readings_CL", "Custom-Thermometer_Readings", None, READINGS_COLUMNS);

pub static ALARMS: Table =
    Table::new("Thermometer_Alarms_CL", "Custom-Thermometer_Alarms", None, ALARMS_COLUMNS);

static READINGS_COLUMNS: &[Column] = &[
    Column::new("TimeGenerated", ColumnType::Datetime, From::TimeOrArrival, "When it arrived."),
    Column::new("ReadingId", ColumnType::String, From::Id, "Which reading it is."),
    Column::new("Number", ColumnType::Int, From::Field("n"), "Its number."),
    Column::new("Sensor", ColumnType::String, From::Field("sensor"), "Where it is from."),
    Column::new("Celsius", ColumnType::Real, From::Field("celsius"), "The temperature."),
    Column::new("Rest", ColumnType::Dynamic, From::Rest, "All other fields."),
];

static ALARMS_COLUMNS: &[Column] = &[
    Column::new("TimeGenerated", ColumnType::Datetime, From::TimeOrArrival, "When it arrived."),
    Column::new("AlarmId", ColumnType::String, From::Id, "Which alarm it is."),
    Column::new("No", ColumnType::Int, From::Field("n"), "Its number."),
    Column::new("Level", ColumnType::Int, From::Field("level"), "How bad it is."),
    Column::new("Limit", ColumnType::Real, From::Field("limit"), "What was exceeded."),
    Column::new("Fields", ColumnType::Dynamic, From::Rest, "All other fields."),
];
