//! Serves the API on a loopback port until interrupted and prints where its kubeconfig is.
//!
//! Usage: `serve <directory> [<address:port>]`

use std::error::Error;
use std::net::TcpListener;
use std::path::PathBuf;

use apiserver::{Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let directory = PathBuf::from(arguments.next().ok_or("usage: serve <directory> [<address:port>]")?);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:0".into());
    let server = Server::open(Config::new(&directory))?;
    let listener = TcpListener::bind(address)?;
    let kubeconfig = directory.join("kubeconfig");
    std::fs::write(&kubeconfig, server.kubeconfig(&format!("https://{}", listener.local_addr()?)))?;
    println!("{}", kubeconfig.display());
    server
        .serve(vec![listener], async {
            // Without the signal there is still the hard way to stop.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    Ok(())
}
