// The small part of the console that runs in the browser: parts of a page are replaced only where
// they differ, so that focus and scrolling stay; times say how long ago; buttons tell the server.
(() => {
  "use strict";
  const sameKind = (a, b) =>
    a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "") &&
    (a.dataset?.key || "") === (b.dataset?.key || "");

  function morph(now, then) {
    if (now.nodeType === Node.TEXT_NODE) {
      if (now.data !== then.data) now.data = then.data;
      return;
    }
    if (now.nodeType !== Node.ELEMENT_NODE) return;
    const timed = now.hasAttribute("data-ago") && now.getAttribute("datetime") === then.getAttribute("datetime");
    for (const { name } of [...now.attributes])
      if (!then.hasAttribute(name)) now.removeAttribute(name);
    for (const { name, value } of [...then.attributes])
      if (now.getAttribute(name) !== value) now.setAttribute(name, value);
    if (!timed) children(now, then);
  }

  function children(now, then) {
    let at = now.firstChild;
    for (const wanted of [...then.childNodes]) {
      let found = at;
      const key = wanted.dataset?.key;
      if (key) {
        while (found && found.dataset?.key !== key) found = found.nextSibling;
        if (found && found !== at) now.insertBefore(found, at);
      }
      if (found && sameKind(found, wanted)) {
        if (found === at) at = at.nextSibling;
        morph(found, wanted);
      } else {
        now.insertBefore(wanted.cloneNode(true), at);
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function ago() {
    const now = Date.now() - skew;
    for (const element of document.querySelectorAll("time[data-ago]")) {
      const seconds = (now - Date.parse(element.getAttribute("datetime"))) / 1000;
      const said = words(seconds);
      if (element.textContent !== said) element.textContent = said;
    }
  }

  function words(seconds) {
    if (seconds < -5) return "in " + words(-seconds).replace(" ago", "");
    if (seconds < 5) return "just now";
    for (const [name, size] of [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]]) {
      const count = Math.floor(seconds / size);
      if (count >= 1) return `${count} ${name}${count > 1 ? "s" : ""} ago`;
    }
    return "just now";
  }

  let skew = 0;
  window.fl = {
    patch(id, html) {
      const element = document.getElementById(id);
      if (!element) return;
      const template = document.createElement("template");
      template.innerHTML = html;
      children(element, template.content);
      ago();
    },
    clock(serverMs) { skew = Date.now() - serverMs; ago(); },
    trouble(text) {
      const banner = document.getElementById("trouble");
      if (!banner) return;
      banner.hidden = !text;
      banner.querySelector("span").textContent = text;
    },
    menu(button) {
      const open = document.getElementById("side").classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
    },
    theme(name) {
      document.cookie = `fieldloop_theme=${name}; path=/; max-age=31536000; samesite=lax`;
      location.reload();
    },
  };
  // A click before the page is connected waits for that, and is not lost.
  const send = (said, triesLeft) => {
    if (window.emitEvent && window.did_handshake) window.emitEvent("fl", said);
    else if (triesLeft > 0) setTimeout(send, 100, said, triesLeft - 1);
  };
  document.addEventListener("click", (event) => {
    const element = event.target.closest("[data-do]");
    if (!element) return;
    const fields = {};
    for (const field of document.querySelectorAll(element.dataset.with || "none"))
      fields[field.name] = field.value;
    send({ ...element.dataset, ...fields }, 100);
  });
  setInterval(ago, 1000);
  document.addEventListener("DOMContentLoaded", ago);
})();
