// Proposes the browser's own time zone. Without this script the form proposes UTC.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
for (const choice of document.querySelectorAll("select[data-own-zone]")) {
  if ([...choice.options].some((option) => option.value === zone)) choice.value = zone;
}
