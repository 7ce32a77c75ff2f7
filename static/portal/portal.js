/* Small manners of the pages. Everything works without it, only less comfortably.
 *
 * data-copy-target="#id" | data-copy-text="…"   a button that copies
 * data-theme-switch                            a button: automatic → light → dark
 * data-autosubmit                              a form sent as soon as a select in it changes
 * data-confirm-name="…"                        a form whose submit button waits until [data-confirm-input] says the same
 * data-resubmit                                a form that may be sent again while the first answer is under way
 * <time datetime data-relative>                shown as "3 hours ago"
 * <tr data-href="…">                           a row that opens a page
 */
(() => {
  "use strict";

  const root = document.documentElement;
  const language = root.lang || "en";
  const live = () => document.getElementById("live");

  function say(message) {
    const region = live();
    if (!region || !message) return;
    // Emptied first: a screen reader stays silent when the same words are set again.
    region.textContent = "";
    window.setTimeout(() => { region.textContent = message; }, 50);
  }

  // --- copy -------------------------------------------------------------------------------------------------------

  function copyByHand(text) {
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "visually-hidden";
    area.setAttribute("readonly", "");
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }

  async function copyText(text) {
    // The clipboard exists only on HTTPS and localhost, and may be refused.
    if (navigator.clipboard && window.isSecureContext) {
      try {
        await navigator.clipboard.writeText(text);
        return true;
      } catch {
        return copyByHand(text);
      }
    }
    return copyByHand(text);
  }

  function selectContents(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }

  async function onCopy(button) {
    const source = button.dataset.copyTarget ? document.querySelector(button.dataset.copyTarget) : null;
    const text = source ? ("value" in source ? source.value : source.textContent) : button.dataset.copyText;
    if (!text) return;
    const words = live()?.dataset ?? {};
    if (await copyText(text.trim())) {
      say(words.copied);
      const label = button.querySelector("[data-copy-label]");
      if (label && !button.classList.contains("is-copied")) {
        const before = label.textContent;
        label.textContent = words.copied;
        window.setTimeout(() => { label.textContent = before; }, 2000);
      }
      button.classList.add("is-copied");
      window.setTimeout(() => button.classList.remove("is-copied"), 2000);
    } else {
      if (source) selectContents(source);
      say(words.copyFailed);
    }
  }

  // --- theme ------------------------------------------------------------------------------------------------------

  function labelThemeSwitches() {
    document.querySelectorAll("[data-theme-switch]").forEach((button) => {
      const words = button.dataset[`label${root.dataset.themeChoice.replace(/^./, (c) => c.toUpperCase())}`];
      button.setAttribute("aria-label", words);
      button.title = words;
    });
  }

  function nextTheme() {
    const order = ["auto", "light", "dark"];
    const next = order[(order.indexOf(root.dataset.themeChoice) + 1) % order.length];
    document.dispatchEvent(new CustomEvent("portal:theme", { detail: next }));
    labelThemeSwitches();
    say(document.querySelector("[data-theme-switch]")?.title);
  }

  // --- times ------------------------------------------------------------------------------------------------------

  const relative = new Intl.RelativeTimeFormat(language, { numeric: "auto" });
  const units = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];

  function inWords(date) {
    const seconds = (date.getTime() - Date.now()) / 1000;
    for (const [unit, length] of units) {
      if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
    }
    return relative.format(0, "second");
  }

  function showTimes() {
    document.querySelectorAll("time[data-relative]").forEach((element) => {
      const date = new Date(element.dateTime);
      if (!Number.isNaN(date.getTime())) element.textContent = inWords(date);
    });
  }

  // --- forms ------------------------------------------------------------------------------------------------------

  function submitButtons(form) {
    return [...form.elements].filter((element) => element.type === "submit" && element.tagName === "BUTTON");
  }

  function release(form) {
    form.removeAttribute("aria-busy");
    submitButtons(form).forEach((button) => {
      if ("sent" in button.dataset) {
        delete button.dataset.sent;
        button.disabled = false;
      }
    });
  }

  function onSubmit(event) {
    const form = event.target;
    if ("resubmit" in form.dataset || form.method === "dialog") return;
    if (form.getAttribute("aria-busy") === "true") {
      event.preventDefault();
      return;
    }
    // Later, so that the pressed button's own name and value still travel, and only if nobody stopped the form.
    window.setTimeout(() => {
      if (event.defaultPrevented && !form.matches("[hx-post], [hx-get], [hx-put], [hx-delete], [data-hx-post]")) return;
      form.setAttribute("aria-busy", "true");
      submitButtons(form).filter((button) => !button.disabled).forEach((button) => {
        button.dataset.sent = "";
        button.disabled = true;
      });
    }, 0);
  }

  function checkConfirmation(form) {
    const input = form.querySelector("[data-confirm-input]");
    const matches = input.value.trim() === form.dataset.confirmName;
    submitButtons(form).forEach((button) => { button.disabled = !matches; });
  }

  // --- wiring -----------------------------------------------------------------------------------------------------

  function onClick(event) {
    const copy = event.target.closest("[data-copy-target], [data-copy-text]");
    if (copy) {
      onCopy(copy);
      return;
    }
    if (event.target.closest("[data-theme-switch]")) {
      nextTheme();
      return;
    }
    const row = event.target.closest("tr[data-href]");
    const isOwnClick = event.target.closest("a, button, input, label, select, summary");
    if (row && !isOwnClick && window.getSelection().isCollapsed) window.location.assign(row.dataset.href);
  }

  // On a narrow screen a section's tabs lie in a row that scrolls: the current one belongs where it is seen.
  function showCurrentTab() {
    document.querySelectorAll(".side-nav [aria-current]").forEach((tab) => {
      const row = tab.parentElement;
      const [inner, outer] = [tab.getBoundingClientRect(), row.getBoundingClientRect()];
      row.scrollLeft += inner.left - outer.left - (outer.width - inner.width) / 2;
    });
  }

  // The sign-up form asks for the reader's zone, so that times in mails are right from the first one.
  function fillTimeZone() {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    document.querySelectorAll("input[data-timezone]").forEach((input) => {
      if (!input.value && zone) input.value = zone;
    });
  }

  function prepare() {
    fillTimeZone();
    showTimes();
    labelThemeSwitches();
    document.querySelectorAll("form[data-confirm-name]").forEach(checkConfirmation);
    // The widget looks for "zh", but its Chinese texts are called "zh-cn".
    if (language.startsWith("zh")) {
      document.querySelectorAll("altcha-widget:not([language])").forEach((widget) => {
        widget.setAttribute("language", "zh-cn");
      });
    }
  }

  document.addEventListener("click", onClick);
  document.addEventListener("submit", onSubmit);
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form[data-autosubmit]");
    if (form && event.target.matches("select")) form.requestSubmit();
  });
  document.addEventListener("input", (event) => {
    const form = event.target.closest("form[data-confirm-name]");
    if (form) checkConfirmation(form);
  });
  // The browser's back button brings the page as it was left: with its buttons switched off.
  window.addEventListener("pageshow", () => document.querySelectorAll("form[aria-busy]").forEach(release));
  document.addEventListener("htmx:afterRequest", (event) => {
    const form = event.target.closest("form");
    if (form) release(form);
  });
  document.addEventListener("htmx:afterSettle", prepare);
  document.addEventListener("DOMContentLoaded", prepare);
  document.addEventListener("DOMContentLoaded", showCurrentTab);
  // What comes in later (a count, the page's letters) makes the tabs wider.
  window.addEventListener("load", showCurrentTab);
  document.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.closest(".side-nav")) showCurrentTab();
  });
  window.setInterval(showTimes, 30000);
})();
