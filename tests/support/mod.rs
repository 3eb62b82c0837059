//! What several tests need.

pub mod azurite;
pub mod deaths;
pub mod doubles;
pub mod enemy;
pub mod entra_tls;
pub mod fake_blobs;
pub mod functions_host;
pub mod houses;
pub mod leased_blob;
pub mod log;
pub mod own_process;
pub mod ports;
pub mod program;
pub mod proxy;
pub mod rig;
pub mod scenario;
pub mod script;
pub mod second_source;
pub mod stage;
pub mod steps;
pub mod tls;
