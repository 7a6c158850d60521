//! Runs a world event by event.
use std::time::Duration;

use crate::backend::{Conn, Found, Received, Reply};
use crate::client::{Client, End, Pace, Step};
use crate::driver::{Driver, Edge};
use crate::ledger::Fate;
use crate::net::{Happening, Listening};
use crate::oracle;
use crate::weather::Weather;
use crate::world::{Change, World};

/// Maximum wait of a client for a 100 before it sends its body.
const SIGN_WAIT: Duration = Duration::from_millis(700);

impl World {
    /// Advances to the next event. Returns whether there was one.
    pub(crate) fn turn(&mut self) -> bool {
        let accepts = !self.backlog.is_empty() && self.proxy().accepts();
        let makes_room = (!self.backlog.is_empty()).then(|| self.proxy().makes_room_from());
        let is_now = accepts || self.driver.as_ref().is_some_and(|driver| driver.has_unread());
        let timeout = self.proxy().poll_timeout();
        let next = [is_now.then_some(self.net.now), timeout, makes_room, self.net.next_at()];
        let Some(next) = next.into_iter().flatten().min() else { return false };
        self.net.now = self.net.now.max(next);
        while let Some(happening) = self.net.due() {
            self.happen(happening);
        }
        if self.net.chance(1) {
            self.handle_timeout();
            self.drive(|driver, net| driver.tell_late_news(net));
        }
        self.drive(|driver, net| driver.read_on(net));
        while !self.backlog.is_empty()
            && self.makes_room()
            && let Some(link) = self.backlog.pop_front()
        {
            let Some(index) = self.owners.get(link).copied().flatten() else { continue };
            let peer = self.clients[index].peer;
            self.drive(|driver, net| driver.accept(net, link, peer));
        }
        if self.proxy().poll_timeout().is_some_and(|at| at <= self.net.now) {
            self.handle_timeout();
            let next = self.proxy().poll_timeout();
            self.hold(oracle::time_advances(self.net.now, next));
        }
        self.hold(oracle::buffers_are_bounded(self.proxy()));
        if !self.driver.as_ref().is_some_and(Driver::has_unread) {
            self.hold(oracle::no_backend_works_for_a_client_that_left(
                self.proxy(),
                self.clients_there(),
            ));
        }
        true
    }

    fn handle_timeout(&mut self) {
        let most = self.proxy().clients_max();
        let before = self.driver.as_ref().map(|driver| driver.links_in_excess(most));
        self.drive(|driver, net| driver.handle_timeout(net));
        self.note_given_way(&before.unwrap_or_default());
    }

    /// Records which of the clients with these connections the proxy has closed.
    pub(crate) fn note_given_way(&mut self, before: &[usize]) {
        for &link in before {
            if self.net.links[link].is_closed_by_proxy
                && let Some(index) = self.owner(link)
            {
                self.clients[index].gave_way = true;
            }
        }
    }

    /// Returns whether the proxy accepts one more client, after idle clients gave way if necessary.
    fn makes_room(&mut self) -> bool {
        if self.proxy().accepts() {
            return true;
        }
        let mut gone = Vec::new();
        let mut has_room = false;
        self.drive(|driver, net| has_room = driver.make_room(net, &mut gone));
        for link in gone {
            let Some(index) = self.owner(link) else { continue };
            let client = &mut self.clients[index];
            client.gave_way = true;
            let waited = self.net.now.since(self.net.links[link].last_write);
            self.hold(oracle::only_idle_clients_give_way(waited));
        }
        has_room
    }

    /// Returns the number of clients whose exchange may continue: those whose end has not reached
    /// the proxy, and those that may end their side earlier or did so with their last bytes.
    fn clients_there(&self) -> usize {
        let is_there = |client: &&Client| {
            let Some(link) = client.link.map(|link| &self.net.links[link]) else { return false };
            let may_end = self.ledger.half_closes
                || client.has_asked_for_tunnel()
                || link.is_half_closed == Some(true) && !link.inward.is_reset();
            !link.is_closed_by_proxy && (may_end || !link.inward.has_end())
        };
        self.clients.iter().filter(is_there).count()
    }

    pub(crate) fn stop(&mut self) {
        if std::mem::replace(&mut self.has_stopped, true) {
            return;
        }
        // The listener is closed: the system resets clients that wait to be accepted.
        for link in std::mem::take(&mut self.backlog) {
            if let Some(index) = self.owner(link) {
                self.clients[index].finish(End::Reset);
            }
        }
        self.drive(|driver, net| driver.handle_stop(net));
    }

    fn drive(&mut self, act: impl FnOnce(&mut Driver, &mut crate::net::Net)) {
        if let Some(driver) = &mut self.driver {
            act(driver, &mut self.net);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::ToProxy(link) => {
                if let Some(is_ending) = self.net.arrive_at_proxy(link) {
                    let edge = Edge { is_readable: true, is_writable: false, is_ending };
                    self.drive(|driver, net| driver.take_edge(net, link, edge));
                }
            }
            Happening::ToPeer(link) => {
                if self.net.arrive_at_peer(link) {
                    self.peer_reads(link);
                } else if self.net.links[link].is_closed_by_peer {
                    self.net.bounce(link);
                }
            }
            Happening::ProxyRoom(link) => {
                let edge = Edge { is_writable: true, ..Edge::default() };
                self.drive(|driver, net| driver.take_edge(net, link, edge));
            }
            Happening::PeerRoom(link) => match self.owner(link) {
                Some(index) => self.client_goes_on(index),
                None => self.backend_goes_on(link),
            },
            Happening::Connected(link) => self.connect(link),
            Happening::Client(index) => self.client_goes_on(index),
            Happening::Backend(link) => self.backend_goes_on(link),
            Happening::Change(index) => self.change(self.changes[index]),
        }
    }

    fn owner(&self, link: usize) -> Option<usize> {
        self.owners.get(link).copied().flatten()
    }

    fn peer_reads(&mut self, link: usize) {
        match self.owner(link) {
            Some(index) => self.client_reads(index),
            None => self.backend_reads(link),
        }
    }

    fn change(&mut self, change: Change) {
        self.net.trace.note(self.net.now, format_args!("change {change:?}"));
        match change {
            Change::Listening(backend, listening) => {
                self.net.listening[backend].1 = listening;
                if !matches!(listening, Listening::Yes | Listening::Exhausted) {
                    let links: Vec<usize> = self.backends[backend].conns.keys().copied().collect();
                    for link in links {
                        self.backend_ends(link, true);
                    }
                }
            }
            Change::CloseIdle(backend) => {
                let conns = self.backends[backend].conns.iter();
                // A new connection expects a request, and a tunnel is never idle.
                let idle = conns.filter(|(_, conn)| {
                    let is_kept = conn.has_served && !conn.is_tunnel;
                    is_kept && conn.current.is_none() && !conn.is_busy()
                });
                let links: Vec<usize> = idle.map(|(&link, _)| link).collect();
                for link in links {
                    self.backend_ends(link, false);
                }
            }
            Change::Reload(index) => self.reload(index),
            Change::Stop => self.stop(),
            Change::Calm => self.weather = Weather::Clear,
        }
    }

    // Clients.

    fn client_goes_on(&mut self, index: usize) {
        if self.clients[index].is_done() {
            return;
        }
        if self.clients[index].link.is_none() {
            self.client_connects(index);
        }
        if self.clients[index].reads_at.is_some_and(|at| at <= self.net.now) {
            self.clients[index].reads_at = None;
            self.client_reads(index);
        }
        while self.client_steps(index) {}
    }

    fn client_connects(&mut self, index: usize) {
        let (inward, outward) = self.clients[index].paths.unwrap_or(self.client_paths);
        let link = self.net.open(inward, outward);
        self.owners.resize(link + 1, None);
        self.owners[link] = Some(index);
        self.clients[index].link = Some(link);
        self.net.trace.note(self.net.now, format_args!("client {index} connects as link {link}"));
        if self.has_stopped {
            // The listener is closed.
            self.clients[index].finish(End::Reset);
        } else {
            self.backlog.push_back(link);
        }
    }

    /// Takes one step of a client's script. Returns false if it must wait.
    fn client_steps(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let Some(link) = client.link.filter(|_| !client.is_done()) else { return false };
        if !client.unsent.is_empty() {
            let count = self.net.peer_send(link, &client.unsent);
            client.unsent.drain(..count);
            return client.unsent.is_empty();
        }
        if client.rests_until.is_some_and(|until| until > self.net.now) {
            return false;
        }
        client.rests_until = None;
        let step = client.script.pop_front().unwrap_or_else(|| {
            let all = client.responses.len() + client.outstanding.len();
            if client.responses.len() < all { Step::AwaitResponses(all) } else { Step::Close }
        });
        match step {
            Step::Send(bytes) => client.unsent = bytes,
            Step::SendWhole(bytes) => self.net.peer_send_whole(link, &bytes),
            Step::Ask { asked, id } => {
                client.outstanding.push_back((asked, id));
                self.net.links[link].written.expect(asked);
            }
            Step::Wait(wait) => {
                client.rests_until = Some(self.net.now + wait);
                self.net.after(wait, Happening::Client(index));
            }
            Step::AwaitResponses(count) => {
                if client.responses.len() < count {
                    client.script.push_front(step);
                    return false;
                }
            }
            Step::AwaitSign => {
                if !client.has_sign() {
                    // The client does not wait indefinitely (RFC 9110 section 10.1.1).
                    client.script.push_front(Step::AwaitSignUntil(self.net.now + SIGN_WAIT));
                    self.net.after(SIGN_WAIT, Happening::Client(index));
                }
            }
            Step::AwaitSignUntil(until) => {
                if !client.has_sign() && self.net.now < until {
                    client.script.push_front(step);
                    return false;
                }
            }
            Step::AwaitHead => {
                if !client.has_head() {
                    client.script.push_front(step);
                    return false;
                }
            }
            Step::AwaitEnd => {
                client.script.push_front(step);
                return false;
            }
            Step::Pace(pace) => {
                client.pace = pace;
                self.client_reads(index);
            }
            Step::Fin => self.net.peer_fin(link),
            Step::Close | Step::Reset => {
                client.finish(End::Own);
                self.net.peer_close(link, matches!(step, Step::Reset));
                self.net.trace.note(self.net.now, format_args!("client {index} closes"));
                self.judge_client(index);
            }
        }
        true
    }

    fn client_reads(&mut self, index: usize) {
        let client = &mut self.clients[index];
        let Some(link) = client.link.filter(|_| !client.is_done()) else { return };
        let most = match client.pace {
            Pace::Fast => usize::MAX,
            Pace::Never => 0,
            Pace::Slow { bytes, pause } => {
                if client.reads_at.is_some() {
                    return;
                }
                let at = self.net.now + pause;
                client.reads_at = Some(at);
                self.net.at(at, Happening::Client(index));
                bytes
            }
        };
        let bytes = self.net.peer_take(link, most);
        if !bytes.is_empty() {
            let count = bytes.len();
            self.net.trace.note(self.net.now, format_args!("client {index} gets {count}"));
        }
        let before = client.responses.len();
        let result = client.receive(&bytes);
        if let Err(text) = result {
            self.hold(Err(format!("client {index} reads {text}")));
        }
        let pipe = &self.net.links[link].outward;
        if pipe.is_at_end() {
            self.clients[index].finish(End::Clean);
            self.net.peer_close(link, false);
        } else if pipe.is_reset() && pipe.waiting() == 0 {
            self.clients[index].finish(End::Reset);
            self.net.peer_close(link, true);
        }
        for number in before..self.clients[index].responses.len() {
            self.judge_response(index, number);
        }
        if let Some(end) = self.clients[index].end {
            self.net.trace.note(self.net.now, format_args!("client {index} ends: {end:?}"));
            self.judge_client(index);
        } else {
            while self.client_steps(index) {}
        }
    }

    // Backends.

    fn backend_of(&self, link: usize) -> Option<usize> {
        let address = self.net.links[link].address?;
        self.backends.iter().position(|backend| backend.address == address)
    }

    fn connect(&mut self, link: usize) {
        let Some(backend) = self.backend_of(link) else { return };
        let is_made = self.net.links[link].connecting == Some(Ok(()));
        if is_made {
            self.backends[backend].conns.insert(link, Conn::new());
            self.backends[backend].connections += 1;
            if self.net.listening[backend].1 != Listening::Yes {
                self.backend_ends(link, true);
            }
        }
        if let Some(driver) = &mut self.driver {
            driver.take_connected(&mut self.net, link);
        }
    }

    fn backend_ends(&mut self, link: usize, with_reset: bool) {
        let Some(backend) = self.backend_of(link) else { return };
        if let Some(conn) = self.backends[backend].conns.remove(&link) {
            self.net.trace.note(
                self.net.now,
                format_args!("backend {backend} closes link {link}, reset {with_reset}"),
            );
            self.net.peer_close(link, with_reset);
            if let Some(current) = conn.current.filter(|current| !current.is_probe) {
                self.receive(backend, current.received);
            }
        }
    }

    fn receive(&mut self, backend: usize, received: Received) {
        if let Some(request) =
            oracle::number(&received.head, "x-id").and_then(|id| self.ledger.request(id))
        {
            let (body, is_whole) = (&received.body, received.is_whole);
            self.hold(oracle::request_body_is_exact_or_cut(request, body, is_whole));
            self.hold(oracle::request_trailer_is_kept(request, &received));
        }
        self.backends[backend].requests.push(received);
    }

    fn backend_reads(&mut self, link: usize) {
        let Some(backend) = self.backend_of(link) else { return };
        let pace = self.backends[backend].pace;
        let Some(conn) = self.backends[backend].conns.get_mut(&link) else { return };
        let most = match pace {
            Pace::Fast => usize::MAX,
            Pace::Never => 0,
            Pace::Slow { bytes, pause } => {
                if conn.reads_at.is_some() {
                    return;
                }
                let at = self.net.now + pause;
                conn.reads_at = Some(at);
                self.net.at(at, Happening::Backend(link));
                bytes
            }
        };
        let bytes = self.net.peer_take(link, most);
        conn.reader.push(&bytes);
        while let Some(conn) = self.backends[backend].conns.get_mut(&link) {
            match conn.read(link) {
                Err(text) => return self.hold(Err(format!("backend {backend} reads {text}"))),
                Ok(None) => break,
                Ok(Some(Found::Head(head))) => {
                    let line = format!("{} {}", head.method, head.target);
                    self.net.trace.note(self.net.now, format_args!("backend {backend}: {line}"));
                    let reply = self.decide_on(backend, &head);
                    if let Some(conn) = self.backends[backend].conns.get_mut(&link) {
                        if reply.at_head {
                            conn.steps.extend(reply.steps);
                        } else if let Some(current) = &mut conn.current {
                            current.reply = Some(reply);
                        }
                    }
                }
                Ok(Some(Found::Whole)) => {
                    let Some(current) = conn.current.take() else { continue };
                    if let Some(reply) = current.reply {
                        conn.is_tunnel = reply.is_tunnel;
                        if reply.is_tunnel {
                            conn.reader.begin_tunnel();
                        }
                        conn.steps.extend(reply.steps);
                    }
                    if !current.is_probe {
                        self.receive(backend, current.received);
                    }
                }
            }
        }
        self.backend_goes_on(link);
        let pipe = &self.net.links[link].outward;
        if pipe.is_reset() && pipe.waiting() == 0 {
            self.backend_ends(link, true);
        }
    }

    fn decide_on(&mut self, backend: usize, head: &crate::reader::Head) -> Reply {
        let id = oracle::number(head, "x-id");
        let request = id.and_then(|id| self.ledger.request(id));
        if let Some(request) = request {
            self.hold(oracle::nothing_bad_is_forwarded(request));
        }
        if head.one("user-agent") == Some("intelliproxy") {
            return Reply::ok("{\"queueLen\":0,\"cpuBusyMs\":1,\"heapUsed\":1000}");
        }
        let scripted = self.backends[backend].script.pop_front();
        let Some(request) = request else {
            let own = match &*head.method {
                "HEAD" => Reply::bytes("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"),
                _ => Reply::ok(&format!("from b{backend}")),
            };
            return scripted.unwrap_or(own);
        };
        let number = self.ledger.runs(request.id).len() as u64 + 1;
        let is_steady = backend == 0;
        let (reply, mut run) = (self.decide)(&mut self.net, self.weather, is_steady, head, number);
        run.backend = backend;
        self.ledger.run(request.id, run);
        self.hold(oracle::nothing_is_done_twice(&self.ledger, request));
        scripted.unwrap_or(reply)
    }

    fn backend_goes_on(&mut self, link: usize) {
        let Some(backend) = self.backend_of(link) else { return };
        let now = self.net.now;
        if let Some(conn) = self.backends[backend].conns.get_mut(&link)
            && conn.reads_at.is_some_and(|at| at <= now)
        {
            conn.reads_at = None;
            self.backend_reads(link);
        }
        while self.backend_steps(backend, link) {}
    }

    /// Takes one step of a backend's response. Returns false if it must wait.
    fn backend_steps(&mut self, backend: usize, link: usize) -> bool {
        let Some(conn) = self.backends[backend].conns.get_mut(&link) else { return false };
        if !conn.unsent.is_empty() {
            let count = self.net.peer_send(link, &conn.unsent);
            conn.unsent.drain(..count);
            return conn.unsent.is_empty();
        }
        if conn.rests_until.is_some_and(|until| until > self.net.now) {
            return false;
        }
        conn.rests_until = None;
        let Some(step) = conn.steps.pop_front() else {
            let is_over = self.net.links[link].outward.is_at_end();
            if is_over && !conn.is_tunnel_over {
                conn.is_tunnel_over = true;
                self.backend_ends(link, false);
            }
            return false;
        };
        match step {
            Step::Send(bytes) => {
                conn.unsent = bytes;
                self.reloaded.ended_there += usize::from(self.net.links[link].is_displaced);
            }
            Step::SendWhole(bytes) => self.net.peer_send_whole(link, &bytes),
            Step::Wait(wait) => {
                conn.rests_until = Some(self.net.now + wait);
                self.net.after(wait, Happening::Backend(link));
            }
            Step::Fin => self.net.peer_fin(link),
            Step::Close => self.backend_ends(link, false),
            Step::Reset => self.backend_ends(link, true),
            Step::Ask { .. }
            | Step::AwaitResponses(_)
            | Step::AwaitSign
            | Step::AwaitSignUntil(_)
            | Step::AwaitHead
            | Step::AwaitEnd
            | Step::Pace(_) => {}
        }
        true
    }

    // Oracles.

    fn judge_response(&self, index: usize, number: usize) {
        let response = &self.clients[index].responses[number];
        let status = response.head.status;
        self.hold(oracle::response_belongs_to_its_request(response));
        self.hold(oracle::response_body_is_exact_or_cut(response));
        self.hold(oracle::other_responses_are_the_proxys(response));
        self.hold(oracle::unsolicited_responses_are_errors(response));
        self.hold(oracle::stats_are_whole(response));
        let request = response.id.and_then(|id| self.ledger.request(id));
        if let Some(request) = request {
            self.hold(oracle::tunnel_is_exact_or_cut(response, request));
            self.hold(oracle::nothing_bad_is_served(response, request));
            if self.weather == Weather::Crashes && status != 0 {
                self.hold(oracle::no_crash_loses_a_request(response, request, &self.ledger));
            }
            debug_assert!(request.fate != Fate::Good || status >= 100, "a response has a status");
        }
    }

    fn judge_client(&self, index: usize) {
        let client = &self.clients[index];
        if (client.is_polite && self.is_fair) || client.must_be_served {
            self.hold(oracle::fair_weather_serves_all(client));
        }
    }
}
