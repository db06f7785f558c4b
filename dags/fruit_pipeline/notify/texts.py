"""Texts and number formats of messages and pages, in English and in French."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

_THIN = "\N{NARROW NO-BREAK SPACE}"
_WIDE = "\N{NO-BREAK SPACE}"

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        # Messages of a run
        "ready.subject": "Cluster ready: {run_key}",
        "ready.text": "The cluster {cluster_id} of the run {run_key} is ready and accepts steps.\n"
        "It is terminated with the run, or when it has been idle for too long.",
        "finished.subject": "Run finished: {run_key}",
        "finished.text": "The run {run_key} has finished. Every row was checked.",
        "finished.images": "Images: {images} of {labels} labels; {features} features, {rejects} rejects",
        "finished.left_out": "Left out of the source: {files} files that may be images: {kinds}",
        "finished.lost_labels": "Labels without an image: {labels}",
        "finished.reused": "Reused from an earlier run: {reused} features",
        "finished.embeddings": "Embeddings: {components} components keep {variance} of the variance",
        "finished.random": "The weights are random: the features mean little.",
        "finished.time": "Time: {duration}",
        "finished.cost": "Actual cost: about {cost}",
        "finished.report": "Report: {report}",
        "finished.places": "Results: {embeddings}\nSummary: {summary}",
        "failed.subject": "Run failed: {run_key} ({task})",
        "failed.text": "The run {run_key} has failed.",
        "failed.task": "Task: {task}",
        "failed.unknown": "Its log in Airflow has the reason.",
        "failed.last_line": "Last line: {line}",
        "failed.resume": "To resume, clear the failed task in Airflow, or trigger again with run_key set "
        "to {run_key}: finished shards are not computed again.",
        "failed.report": "The results are complete and checked; only the report is missing. Clear the "
        "failed task in Airflow to write it again, which needs no cluster.",
        "failed.refused": "Nothing was started. Correct what the message names, then trigger again.",
        "failed.leak": "THE CLUSTER MAY STILL BE ALIVE, AND COST MONEY: check it in the EMR console.",
        "airflow": "Airflow: {dag_id}, {run_id}",
        "console": "Console: {url}",
        # Notebook clusters
        "notebook.subject": "Notebook cluster ready: {owner}",
        "notebook.text": "The notebook cluster {cluster_id} of {owner} is ready until {until}. "
        "It is terminated earlier when it has been idle for {idle}.",
        "notebook.ssm": "1. Tunnel by Session Manager (no open port, no key; needs the AWS CLI with its "
        "session-manager-plugin):",
        "notebook.ssh": "2. Or by SSH (needs the cluster's key, and port 22 open to you):",
        "notebook.open": "Then open {url}. Your browser warns of the certificate, which the cluster "
        "signed itself.",
        "notebook.login": "Log in as jovyan with the password jupyter, which EMR sets: change it first.",
        "notebook.place": "Notebooks are stored in {place}.",
        "notebook.end": "Terminate it when you are done:",
        # Reaper
        "reaper.subject.one": "One orphaned cluster",
        "reaper.subject.many": "{count} orphaned clusters",
        "reaper.text": "No run needs these clusters any more, and they cost money:",
        "reaper.line": "- {cluster_id} ({run_key}), running for {age}: {reason}. {outcome}",
        "reaper.until": "its end was due at {until}",
        "reaper.age": "older than the {limit} of FRUITS_REAP_HOURS",
        "reaper.idle": "without a step for {idle}",
        "reaper.terminated": "It is being terminated.",
        "reaper.reported": "It keeps running, because FRUITS_REAP is not true.",
        "reaper.protected": "It keeps running, because it is protected against termination.",
        "reaper.refused": "It could not be terminated: {error}",
        "reaper.command": "To terminate them: {command}",
        # Cost report
        "report.title": "Cost report, {date}",
        "report.subject": "Cost report {date}: {total}",
        "report.subject.no_bill": "Cost report {date}: no bill",
        "report.period": "{start} to {end}, by the tag {tag}",
        "report.total": "Billed in {days} days: {total}",
        "report.week": "Billed in the last 7 days: {total}",
        "report.line": "- {name}: {value}",
        "report.alive": "Clusters running now: {count}",
        "report.forgotten": "Unfinished runs: {runs}; incomplete uploads: {uploads}",
        "report.cleaned": "Deleted: {size}; runs: {runs}",
        "report.page": "Page: {page}",
        "report.problem": "There is no bill: {problem}",
        "report.empty": "Nothing was billed under this tag. Is it activated as a cost allocation tag? "
        "Activation takes up to a day, and does not apply to earlier days.",
        "report.estimated": "AWS has not closed all of these days: the amounts of the last ones may grow.",
        "report.by_day": "Bill by day",
        "report.by_run": "Bill by run",
        "report.by_service": "Bill by service",
        "report.clusters": "Clusters running now",
        "report.unfinished": "Unfinished runs",
        "report.unfinished.note": "Without a summary.json, and nothing written for {days} days. Resume one "
        "with its key, or delete it:",
        "report.uploads": "Incomplete uploads",
        "report.uploads.note": "Started more than {days} days ago and never completed; their parts cost "
        "as much as objects. A lifecycle rule of the bucket (AbortIncompleteMultipartUpload) deletes them.",
        "report.cleaned.heading": "Deleted",
        "report.cleaned.note": "Samples, code and logs of finished runs, after {days} days. Results stay.",
        "report.none": "None.",
        "report.untagged": "(without a key)",
        "report.footer": "Actual cost: list prices times the lifetimes of the cluster's instances. "
        "Difference: the bill minus the actual cost. The summary.json of a run has its estimate and its "
        "actual cost. Bill: Cost Explorer, unblended, before tax.",
        "column.day": "Day",
        "column.run": "Run",
        "column.service": "Service",
        "column.bill": "Bill",
        "column.actual": "Actual cost",
        "column.difference": "Difference",
        "column.estimate": "Estimate",
        "column.cluster": "Cluster",
        "column.state": "State",
        "column.age": "Running for",
        "column.objects": "Objects",
        "column.size": "Size",
        "column.last": "Last written",
        "column.started": "Started",
        "column.object": "Object",
    },
    "fr": {
        "ready.subject": "Cluster prêt : {run_key}",
        "ready.text": "Le cluster {cluster_id} de l'exécution {run_key} est prêt et accepte des étapes.\n"
        "Il sera arrêté à la fin de l'exécution, ou s'il reste trop longtemps inactif.",
        "finished.subject": "Exécution terminée : {run_key}",
        "finished.text": "L'exécution {run_key} est terminée. Chaque ligne a été vérifiée.",
        "finished.images": "Images : {images} de {labels} étiquettes ; {features} vecteurs de "
        "caractéristiques, {rejects} rejets",
        "finished.left_out": "Fichiers de la source laissés de côté, peut-être des images : {files} ; "
        "{kinds}",
        "finished.lost_labels": "Étiquettes sans image : {labels}",
        "finished.reused": "Réutilisés d'une exécution antérieure : {reused} vecteurs",
        "finished.embeddings": "Vecteurs réduits : {components} composantes conservent {variance} de la "
        "variance",
        "finished.random": "Les poids sont aléatoires : les caractéristiques n'ont guère de sens.",
        "finished.time": "Durée : {duration}",
        "finished.cost": "Coût réel : environ {cost}",
        "finished.report": "Rapport : {report}",
        "finished.places": "Résultats : {embeddings}\nRésumé : {summary}",
        "failed.subject": "Échec de l'exécution : {run_key} ({task})",
        "failed.text": "L'exécution {run_key} a échoué.",
        "failed.task": "Tâche : {task}",
        "failed.unknown": "Son journal, dans Airflow, en donne la raison.",
        "failed.last_line": "Dernière ligne : {line}",
        "failed.resume": "Pour reprendre, effacez l'état de la tâche en échec dans Airflow (Clear), ou "
        "relancez avec run_key réglé sur {run_key} : les lots terminés ne sont pas recalculés.",
        "failed.report": "Les résultats sont complets et vérifiés : seul le rapport manque. Effacez l'état "
        "de la tâche en échec dans Airflow (Clear) pour le refaire, ce qui ne demande pas de cluster.",
        "failed.refused": "Rien n'a été démarré. Corrigez ce que le message indique, puis relancez.",
        "failed.leak": "LE CLUSTER EST PEUT-ÊTRE TOUJOURS EN VIE, ET COÛTE DE L'ARGENT : vérifiez-le dans la "
        "console EMR.",
        "airflow": "Airflow : {dag_id}, {run_id}",
        "console": "Console : {url}",
        "notebook.subject": "Cluster de notebooks prêt : {owner}",
        "notebook.text": "Le cluster de notebooks {cluster_id} de {owner} est prêt, jusqu'au {until}. "
        "Il s'arrêtera plus tôt s'il reste inactif pendant {idle}.",
        "notebook.ssm": "1. Tunnel par Session Manager (ni port ouvert, ni clé ; il faut l'AWS CLI et son "
        "session-manager-plugin) :",
        "notebook.ssh": "2. Ou par SSH (il faut la clé du cluster, et le port 22 ouvert pour vous) :",
        "notebook.open": "Ouvrez ensuite {url}. Votre navigateur signalera le certificat, que le cluster a "
        "signé lui-même.",
        "notebook.login": "Connectez-vous comme jovyan avec le mot de passe jupyter, fixé par EMR : "
        "changez-le d'abord.",
        "notebook.place": "Les notebooks sont conservés dans {place}.",
        "notebook.end": "Arrêtez-le quand vous avez fini :",
        "reaper.subject.one": "Un cluster orphelin",
        "reaper.subject.many": "{count} clusters orphelins",
        "reaper.text": "Plus aucune exécution n'a besoin de ces clusters, et ils coûtent de l'argent :",
        "reaper.line": "- {cluster_id} ({run_key}), en marche depuis {age} : {reason}. {outcome}",
        "reaper.until": "sa fin était prévue le {until}",
        "reaper.age": "plus vieux que les {limit} de FRUITS_REAP_HOURS",
        "reaper.idle": "sans étape depuis {idle}",
        "reaper.terminated": "Son arrêt est en cours.",
        "reaper.reported": "Il continue, car FRUITS_REAP ne vaut pas true.",
        "reaper.protected": "Il continue, car il est protégé contre l'arrêt.",
        "reaper.refused": "Il n'a pas pu être arrêté : {error}",
        "reaper.command": "Pour les arrêter : {command}",
        "report.title": "Rapport des coûts, {date}",
        "report.subject": "Rapport des coûts du {date} : {total}",
        "report.subject.no_bill": "Rapport des coûts du {date} : pas de facture",
        "report.period": "du {start} au {end}, selon l'étiquette AWS {tag}",
        "report.total": "Facturé en {days} jours : {total}",
        "report.week": "Facturé ces 7 derniers jours : {total}",
        "report.line": "- {name} : {value}",
        "report.alive": "Clusters en marche à cet instant : {count}",
        "report.forgotten": "Exécutions inachevées : {runs} ; envois incomplets : {uploads}",
        "report.cleaned": "Supprimé : {size} ; exécutions : {runs}",
        "report.page": "Page : {page}",
        "report.problem": "Il n'y a pas de facture : {problem}",
        "report.empty": "Rien n'a été facturé sous cette étiquette. Est-elle activée comme étiquette de "
        "répartition des coûts ? L'activation prend jusqu'à un jour, et n'est pas rétroactive.",
        "report.estimated": "AWS n'a pas clos tous ces jours : les montants des derniers peuvent augmenter.",
        "report.by_day": "Facture par jour",
        "report.by_run": "Facture par exécution",
        "report.by_service": "Facture par service",
        "report.clusters": "Clusters en marche à cet instant",
        "report.unfinished": "Exécutions inachevées",
        "report.unfinished.note": "Pas de summary.json, et rien d'écrit depuis {days} jours. Reprenez-en une "
        "avec sa clé, ou supprimez-la :",
        "report.uploads": "Envois incomplets",
        "report.uploads.note": "Commencés il y a plus de {days} jours et jamais achevés ; leurs parties "
        "coûtent autant que des objets. Une règle de cycle de vie du compartiment "
        "(AbortIncompleteMultipartUpload) les supprime.",
        "report.cleaned.heading": "Supprimé",
        "report.cleaned.note": "Échantillons, code et journaux des exécutions terminées, après {days} jours. "
        "Les résultats sont conservés.",
        "report.none": "Aucun élément.",
        "report.untagged": "(sans clé)",
        "report.footer": "Coût réel : prix publics multipliés par la durée de vie des instances du cluster. "
        "Écart : la facture moins le coût réel. Le summary.json d'une exécution contient son estimation et "
        "son coût réel. Facture : Cost Explorer, coûts non mélangés, hors taxes.",
        "column.day": "Jour",
        "column.run": "Exécution",
        "column.service": "Service",
        "column.bill": "Facture",
        "column.actual": "Coût réel",
        "column.difference": "Écart",
        "column.estimate": "Estimation",
        "column.cluster": "Cluster",
        "column.state": "État",
        "column.age": "En marche depuis",
        "column.objects": "Objets",
        "column.size": "Taille",
        "column.last": "Dernière écriture",
        "column.started": "Commencé",
        "column.object": "Objet",
    },
}


class Words:
    """Texts and number formats in one language, and times in one time zone (default: UTC)."""

    def __init__(self, language: str, time_zone: ZoneInfo | None = None) -> None:
        self.language = language
        self.time_zone = time_zone or ZoneInfo("UTC")

    def __call__(self, name: str, /, **values: object) -> str:
        """The text ``name`` with its values. Raises KeyError for a name or a value that is missing."""
        text = TEXTS[self.language][name]
        if self.language == "fr":  # no line break before these signs; values are filled in unchanged
            for sign in ":;?!":
                text = text.replace(f" {sign}", f"{_WIDE}{sign}")
        return text.format(**values)

    def number(self, value: float, digits: int = 0) -> str:
        text = f"{value:,.{digits}f}"
        if self.language == "fr":
            return text.translate({ord(","): _THIN, ord("."): ","})
        return text

    def percent(self, share: float) -> str:
        """A share of 1 as a percentage with one digit."""
        return self.number(100 * share, 1) + (f"{_WIDE}%" if self.language == "fr" else "%")

    def money(self, amount: float, unit: str = "USD") -> str:
        return f"{self.number(amount, 2)}{_WIDE}{unit}"

    def size(self, count: float) -> str:
        """Bytes in the largest unit that leaves at least 1, in powers of 1,000."""
        units = ("o", "ko", "Mo", "Go", "To") if self.language == "fr" else ("B", "kB", "MB", "GB", "TB")
        at = 0
        while count >= 1000 and at < len(units) - 1:
            count, at = count / 1000, at + 1
        return f"{self.number(count, 1 if at else 0)}{_WIDE}{units[at]}"

    def duration(self, seconds: float) -> str:
        """The two largest units of a time span: 2 d 4 h, 3 h 05 min, 4 min 10 s, 8 s."""
        minutes, second = divmod(round(seconds), 60)
        hours, minute = divmod(minutes, 60)
        days, hour = divmod(hours, 24)
        if days:
            return f"{days} {'j' if self.language == 'fr' else 'd'} {hour} h"
        if hours:
            return f"{hours} h {minute:02} min"
        return f"{minute} min {second:02} s" if minutes else f"{second} s"

    def day(self, moment: datetime) -> str:
        return moment.astimezone(self.time_zone).strftime("%d/%m/%Y" if self.language == "fr" else "%Y-%m-%d")

    def moment(self, moment: datetime) -> str:
        """Day, hour and minute, with the time zone's short name."""
        local = moment.astimezone(self.time_zone)
        between = " à " if self.language == "fr" else " "
        return f"{self.day(moment)}{between}{local:%H:%M} {local.tzname()}"
