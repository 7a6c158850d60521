//! The simulated world, seed after seed.
use intelliproxy_core::Instant;
use intelliproxy_tests::client::Step;
use intelliproxy_tests::ledger::{Fate, Request};
use intelliproxy_tests::net::Path;
use intelliproxy_tests::strict::Asked;
use intelliproxy_tests::world::World;
use std::time::Duration;

/// Plain requests arrive and are answered whole, however the network cuts them.
#[test]
fn plain_requests_survive_every_segmentation() {
    for seed in 0..200 {
        let mut world = World::seeded(seed, false).fair().backend(Vec::new()).backend(Vec::new());
        let path = |net: &mut intelliproxy_tests::net::Net| Path {
            latency: Duration::from_micros(net.pick(0, 3000)),
            jitter: Duration::from_micros(net.pick(0, 2000)),
            segment_max: [1, 7, 100, 1460, 65536][net.pick(0, 4) as usize],
            capacity: [600, 5000, 65536][net.pick(0, 2) as usize],
            is_harsh: false,
        };
        let (a, b) = (path(world.net()), path(world.net()));
        world = world.client_paths(a, b);
        let (a, b) = (path(world.net()), path(world.net()));
        world = world.backend_paths(a, b);
        for _ in 0..world.net().pick(1, 4) {
            let mut script = Vec::new();
            for _ in 0..world.net().pick(1, 5) {
                let id = world.ledger().next_id();
                world.ledger().add(Request {
                    id,
                    fate: Fate::Good,
                    is_idempotent: true,
                    body: 0,
                    has_trailer: false,
                    is_replayable: true,
                });
                let asked = Asked { is_head: false, is_old: false, is_upgrade: false };
                script.push(Step::Ask { asked, id: Some(id) });
                let text = format!("GET /{id} HTTP/1.1\r\nHost: a.test\r\nX-Id: {id}\r\n\r\n");
                script.push(Step::Send(text.into_bytes()));
            }
            let at = world.net().pick(0, 50);
            world.add_client(Instant::from_millis(at), script);
        }
        let report = world.run();
        assert!(report.clients.iter().all(|client| !client.answers.is_empty()));
    }
}
