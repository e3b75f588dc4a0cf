//! Says on the Node object that the node's network is available.

use std::time::Duration;

use kube::Client;
use model::NodeName;
use tokio::sync::watch;

/// The first delay after a failed attempt; it doubles,
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// How long the watch may take to show that the condition is set. If it does not by then, somebody has set it back.
const ECHO: Duration = Duration::from_secs(10);

/// Sets the condition whenever it is wanted, until the channel closes.
pub(crate) async fn keep(client: Client, node: NodeName, mut wanted: watch::Receiver<bool>) {
    let mut delay = FIRST_RETRY;
    while wanted.wait_for(|wanted| *wanted).await.is_ok() {
        let pause = match kube_source::set_network_available(&client, &node).await {
            Ok(()) => {
                tracing::info!(%node, "the Node says that its network is available");
                delay = FIRST_RETRY;
                ECHO
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the Node's condition cannot be set, so no pods may be scheduled here; it will be tried again"
                );
                let pause = delay;
                delay = (delay * 2).min(LONGEST_RETRY);
                pause
            }
        };
        // Whoever does not want it any more need not wait.
        let _ = tokio::time::timeout(pause, wanted.wait_for(|wanted| !*wanted)).await;
    }
}
