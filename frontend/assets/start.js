// Starts the dashboard. A file of its own, so that the content security policy needs no inline script.
import start from "./@SCRIPT@";
start({ module_or_path: new URL("./@WASM@", import.meta.url) }).catch((error) => {
  const note = document.getElementById("boot");
  if (note) note.textContent = "The dashboard could not start: " + error;
});
