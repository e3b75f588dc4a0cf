//! `cambric lab ui`: the live page of a lab.

mod doctor;
mod ground;

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use trace::flow::NamedFlow;
use trace::journey::Scene;
use web::{Page, Sessions, Source, Token, Verdict, View, accept};

use crate::check::event_loop::{event_loop, unless_interrupted};
use crate::cli::Name;
use crate::paths::LabName;
use crate::process::ready;
use crate::signals::Interrupts;
use crate::state::State;
use crate::topology::{self, Topology};
use crate::{Error, Result, fabric, flows, live};

/// `cambric lab ui`
#[derive(Debug, Args)]
pub struct Options {
    /// Which lab
    #[command(flatten)]
    lab: Name,
    /// The port on 127.0.0.1; 0 for any that is free
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    port: u16,
}

/// Serves the page until a signal comes, and prints its address first.
///
/// # Errors
/// [`Error::NoLab`], or [`Error::System`] if the port cannot be had.
pub fn run(options: &Options, interrupts: &Interrupts) -> Result<()> {
    let lab = Shown::new(&options.lab.name)?;
    let token = Token::random().map_err(|error| Error::Other(error.to_string()))?;
    let address = (Ipv4Addr::LOCALHOST, options.port);
    let served = event_loop()?.block_on(unless_interrupted(interrupts, async {
        let failed = |error| Error::system(format!("listen on 127.0.0.1:{} (--port)", address.1), error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        print(&format!("http://{bound}/#{}\n", token.as_str()))?;
        ready();
        let page = Arc::new(Page::new(lab, token));
        accept(listener, "the live page", move |request, _| page.clone().answer(request)).await;
        Ok(())
    }));
    match served {
        // That is how it ends.
        Err(Error::Interrupted(_)) => Ok(()),
        result => result,
    }
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(|error| Error::system("write to standard output", error))
}

/// A lab that is shown.
struct Shown {
    lab: LabName,
    executable: PathBuf,
    topology: Topology,
}

impl Shown {
    fn new(lab: &LabName) -> Result<Shown> {
        let executable = State::read(lab)?.executable;
        let topology = topology::load(&lab.paths().topology())?;
        Ok(Shown { lab: lab.clone(), executable, topology })
    }

    fn look(&self) -> Result<View> {
        let scene = event_loop()?.block_on(live::scene(&self.lab, &self.topology))?;
        let ground = ground::ground(&self.lab, &self.topology, &fabric::cables(&self.lab, &self.topology)?);
        Ok(View { scene: Arc::new(scene), ground })
    }
}

impl Source for Shown {
    fn flows(&self, scene: &Scene) -> Result<Vec<NamedFlow>, String> {
        let places = flows::of_lab(&self.lab, None).map(|(places, _)| places);
        let flows = places.and_then(|places| flows::current(&places, scene, &flows::each_once(&places)));
        flows.map_err(|error| error.to_string())
    }

    fn view(&self) -> Result<View, String> {
        self.look().map_err(|error| error.to_string())
    }

    fn findings(&self) -> Result<Vec<Verdict>, String> {
        let nodes = self.topology.nodes().map(|node| node.name.as_str());
        doctor::ask(&self.lab, &self.executable, nodes).map_err(|error| error.to_string())
    }

    fn sessions(&self) -> Result<Vec<Sessions>, String> {
        let all = self.topology.nodes().map(|node| {
            let path = self.lab.paths().node(&node.name).run().join("bgp.json");
            Sessions::read(&node.name, &path)
        });
        Ok(all.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }
}
