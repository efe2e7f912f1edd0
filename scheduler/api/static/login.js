// A link may bring the key behind '#': it never left this browser. Take it out of the address, then sign in.
const key = new URLSearchParams(location.hash.slice(1)).get("key");
if (key) {
  history.replaceState(null, "", location.pathname + location.search);
  document.getElementById("key").value = key;
  document.getElementById("door").requestSubmit();
}
