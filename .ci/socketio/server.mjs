// A socket.io server, named by the first argument, on the port in the second. Its replies contain
// its name.
import { createServer } from "node:http";
import { Server } from "socket.io";

const [name, port] = process.argv.slice(2);
const http = createServer((request, response) => response.end("ok"));
const io = new Server(http, { pingInterval: 2000, pingTimeout: 4000 });
io.on("connection", (socket) => socket.on("who", (reply) => reply(name)));
http.listen(Number(port), "127.0.0.1", () => console.log(`listening on ${http.address().port}`));
