// Before the first paint, so that no page flashes in the wrong colours.
const theme = localStorage.getItem("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
