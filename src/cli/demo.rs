use super::CommandError;
use clap::Args;
#[derive(Args, Debug)]
pub(super) struct Demo {}
impl Demo {
    pub(super) async fn run(self) -> Result<u8, CommandError> {
        Ok(0)
    }
}
