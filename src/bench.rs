//! `cairn bench`: the load generator, ended early by SIGINT or SIGTERM.

use cairn_bench::BenchArgs;
use tokio_util::sync::CancellationToken;

use crate::error::StartError;
use crate::signals::StopSignals;

/// Does what the options say.
pub async fn run(args: BenchArgs) -> Result<(), StartError> {
    let mut signals = StopSignals::listen()?;
    let stop = CancellationToken::new();
    let work = cairn_bench::run(args, stop.clone());
    let stopper = async {
        signals.wait().await;
        stop.cancel();
        // The work ends itself, with its summary.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        done = work => Ok(done?),
        () = stopper => Ok(()),
    }
}
