//! x
pub async fn run(_: crate::config::Settings, _: std::time::Instant) -> Result<(), crate::Exit> { Ok(()) }
