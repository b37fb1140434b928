import { render } from "preact";
import { App } from "./app";
import { presence } from "./streams/presence";
import "./style.css";

const root = document.getElementById("app");
if (root === null) throw new Error("the document has no place for the page");
presence.resume();
render(<App />, root);
