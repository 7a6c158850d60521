use super::*;

const NOW: Instant = Instant::ZERO;

/// A control machine with one connection.
fn connected() -> (Control, usize) {
    let mut control = Control::default();
    let id = control.handle_accept(NOW).expect("room");
    (control, id)
}

fn send(control: &mut Control, id: usize, mut bytes: &[u8]) -> Vec<String> {
    let mut commands = Vec::new();
    while !bytes.is_empty() {
        let space = control.read_space(id);
        let count = space.len().min(bytes.len());
        if count == 0 {
            break;
        }
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        control.handle_read(id, count);
        commands.extend(carry_out(control, id));
    }
    commands
}

/// Responds to every command with its line. Returns the responses.
fn carry_out(control: &mut Control, id: usize) -> Vec<String> {
    let mut responses = Vec::new();
    loop {
        let command = control.take_command(NOW, id);
        if let Some(command) = &command {
            control.respond(NOW, id, Ok(format!("ok {}", command.line())));
        }
        let output = String::from_utf8(control.write_ready(id).to_vec()).expect("text");
        if output.is_empty() {
            return responses;
        }
        control.handle_written(NOW, id, output.len());
        responses.push(output);
    }
}

/// Commands arrive whole, byte by byte, several at once, with any line end, and the last one
/// without one. Each gets its response in order.
#[test]
fn commands_arrive_in_pieces() {
    let text = b"drain A\r\nreload\n\nnonsense\nweight A 7";
    let whole = {
        let (mut control, id) = connected();
        let mut responses = send(&mut control, id, text);
        control.handle_eof(id);
        responses.extend(carry_out(&mut control, id));
        assert_eq!(control.poll_closed(), Some(id), "it is closed after its last response");
        responses
    };
    assert_eq!(whole.len(), 5, "{whole:?}");
    assert_eq!(whole[..3], ["ok drain A\n", "ok reload\n", "error empty command\n"]);
    assert!(whole[3].starts_with("error nonsense: no such command"), "{whole:?}");
    assert_eq!(whole[4], "ok weight A 7\n");
    let (mut control, id) = connected();
    let mut responses: Vec<String> =
        text.iter().flat_map(|byte| send(&mut control, id, &[*byte])).collect();
    control.handle_eof(id);
    responses.extend(carry_out(&mut control, id));
    assert_eq!(responses, whole);
}

/// A line that is too long or not text gets an error. After a line that is too long the connection
/// is closed.
#[test]
fn garbage_is_refused() {
    let (mut control, id) = connected();
    assert_eq!(send(&mut control, id, b"\xff\xfe\n"), ["error not UTF-8\n"]);
    let responses = send(&mut control, id, &[b'x'; 5000]);
    assert_eq!(responses, ["error a command has at most 1024 bytes\n"]);
    assert_eq!(control.poll_closed(), Some(id));
    let longest = [&[b' '; LINE_MAX - 8][..], b"drain A\n"].concat();
    let (mut control, id) = connected();
    assert_eq!(send(&mut control, id, &longest), ["ok drain A\n"]);
}

/// A client that is silent or accepts no response is closed at its deadline, but not while its
/// command is being carried out. If all connections are in use, the one that has been idle longest
/// gives way.
#[test]
fn silent_clients_are_closed() {
    let (mut control, id) = connected();
    control.handle_timeout(NOW + IDLE_MAX - Duration::from_nanos(1));
    assert_eq!(control.poll_closed(), None);
    control.handle_timeout(NOW + IDLE_MAX);
    assert_eq!(control.poll_closed(), Some(id));
    let id = control.handle_accept(NOW).expect("room");
    let space = control.read_space(id);
    space[..7].copy_from_slice(b"reload\n");
    control.handle_read(id, 7);
    assert_eq!(control.take_command(NOW, id), Some(Command::Reload));
    assert_eq!(control.poll_timeout(), None);
    for second in 1..CONNECTIONS_MAX as u64 {
        control.handle_accept(NOW + Duration::from_secs(second)).expect("room");
    }
    assert_eq!(control.handle_accept(NOW), None);
    assert!(control.make_room());
    assert_eq!(control.poll_closed(), Some(1), "the first one is busy");
    control.respond(NOW, id, Ok("ok".to_owned()));
    control.handle_timeout(NOW + WRITE_MAX);
    assert_eq!(control.poll_closed(), Some(id), "it takes no response");
}
