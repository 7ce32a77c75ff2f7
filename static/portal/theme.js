// Runs in <head>, before anything is painted, so that a dark page never flashes white. portal.js has the switch.
(() => {
  "use strict";
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");

  const remembered = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // Storage may be forbidden; then the system's choice stands.
    }
  };

  const apply = (choice) => {
    root.dataset.themeChoice = choice;
    root.dataset.bsTheme = choice === "auto" ? (dark.matches ? "dark" : "light") : choice;
  };

  root.classList.add("js");
  apply(["light", "dark"].includes(remembered()) ? remembered() : "auto");
  dark.addEventListener("change", () => apply(root.dataset.themeChoice));
  document.addEventListener("portal:theme", (event) => {
    apply(event.detail);
    try {
      localStorage.setItem("theme", event.detail);
    } catch {
      return; // Not remembered, but in force on this page.
    }
  });
})();
