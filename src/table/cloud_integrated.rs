//! The columns of `Cloud_Integrated_CL`.
use super::Table;

/// Where Mimecast's Cloud Integrated events land.
pub static CLOUD_INTEGRATED: Table = Table {
    name: "Cloud_Integrated_CL",
    stream: "Custom-Cloud_Integrated",
    time_field: "timestamp",
    columns: &[],
};
