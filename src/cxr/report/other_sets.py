"""What a report says of sets that are not ChestX-ray14's: what they are, and whom to name."""

from cxr.cohort import chexpert, rsna, tbportals

KIND = {
    "chexpert_valid": "CheXpert, radiologists' labels",
    "chexpert_val": "CheXpert, held out of its training films, text-mined labels",
    "mimic_test": "MIMIC-CXR, published test films, text-mined labels",
    "mimic_val": "MIMIC-CXR, held out of its training films, text-mined labels",
    "rsna": "RSNA pneumonia challenge, radiologists' labels",
    "rsna_val": "RSNA pneumonia challenge, held out, radiologists' labels",
    "tbportal": "TB Portals, patients with tuberculosis",
}
MINED = (
    "Labels were text-mined from reports by CheXpert's program, not by that of ChestX-ray14: what is called a finding, and how often it is missed, differs, "
    "so a lower number may be the labels' doing."
)
ABOUT = {
    "chexpert_valid": "Labels are the consensus of three radiologists who read the films of 200 studies (Irvin et al. 2019).",
    "chexpert_val": MINED,
    "mimic_test": MINED + " Age and sex are not published with the films.",
    "mimic_val": MINED,
    "rsna": "Labels are radiologists': a lung opacity that may be pneumonia, boxed or not (Shih et al. 2019). The films are ChestX-ray14's own, so they are no "
    "other hospital's, and those of patients whom the run has seen are not among them.",
    "rsna_val": "Labels are radiologists' (Shih et al. 2019). The films are ChestX-ray14's own.",
    "tbportal": "Every patient has tuberculosis: no film is negative, so nothing can be ranked against it, and the model predicts no tuberculosis. Cavities "
    "are the readers'.",
}
CARRIED_OVER = (
    "The films of {data} took no part in this run. Mapping, thresholds and recalibration are those of the run, from its own validation films (NIH val), "
    "carried over unchanged; NIH val stands beside, and there the checkpoint was chosen, so a fall from it is partly that. Where the labels were made by other "
    "people or another program, a number also tells how far the two agree."
)
CHEXPERT_LABELLER = (
    "Jeremy Irvin, Pranav Rajpurkar, Michael Ko, Yifan Yu, Silviana Ciurea-Ilcus, Chris Chute, Henrik Marklund, Behzad Haghgoo, Robyn Ball, Katie Shpanskaya, "
    "Jayne Seekins, David A. Mong, Safwan S. Halabi, Jesse K. Sandberg, Ricky Jones, David B. Larson, Curtis P. Langlotz, Bhavik N. Patel, Matthew P. Lungren, "
    "Andrew Y. Ng. CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison. AAAI, 2019."
)
ATTRIBUTION = {
    "chexpert": [f"CheXpert: under the Stanford University Dataset Research Use Agreement, {chexpert.CHEXPERT_SOURCE}.", CHEXPERT_LABELLER],
    "mimic": [
        f"MIMIC-CXR-JPG: under the PhysioNet Credentialed Health Data License, for credentialed users alone, who do not pass the data on: "
        f"{chexpert.MIMIC_SOURCE}.",
        "Alistair E. W. Johnson, Matthew P. Lungren, Yifan Peng, Zhiyong Lu, Roger G. Mark, Seth J. Berkowitz, Steven Horng. MIMIC-CXR-JPG - chest radiographs "
        "with structured labels (version 2.0.0). PhysioNet, 2019. doi:10.13026/8360-t248.",
        "Alistair E. W. Johnson, Tom J. Pollard, Seth J. Berkowitz, Nathaniel R. Greenbaum, Matthew P. Lungren, Chih-ying Deng, Roger G. Mark, Steven Horng. "
        "MIMIC-CXR, a de-identified publicly available database of chest radiographs with free-text reports. Scientific Data 6:317, 2019.",
        "Ary L. Goldberger, Luis A. N. Amaral, Leon Glass, Jeffrey M. Hausdorff, Plamen Ch. Ivanov, Roger G. Mark, Joseph E. Mietus, George B. Moody, "
        "Chung-Kang Peng, H. Eugene Stanley. PhysioBank, PhysioToolkit, and PhysioNet: Components of a New Research Resource for Complex Physiologic Signals. "
        "Circulation 101:e215-e220, 2000.",
    ],
    "rsna": [
        f"RSNA pneumonia challenge: films of NIH ChestX-ray14, labels of RSNA and the Society of Thoracic Radiology, for non-commercial use, {rsna.SOURCE}.",
        "George Shih, Carol C. Wu, Safwan S. Halabi, Marc D. Kohli, Luciano M. Prevedello, Tessa S. Cook, Arjun Sharma, Judith K. Amorosa, Veronica Arteaga, "
        "Maya Galperin-Aizenberg, Ritu R. Gill, Myrna C. B. Godoy, Stephen Hobbs, Jean Jeudy, Archana Laroia, Palmi N. Shah, Dharshan Vummidi, Kavitha "
        "Yaddanapudi, Anouk Stein. Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible Pneumonia. "
        "Radiology: Artificial Intelligence 1(1):e180041, 2019.",
    ],
    "tbportals": [
        f"Data were obtained from the TB Portals (https://tbportals.niaid.nih.gov) under their data use agreement, {tbportals.SOURCE}. The TB Portals are an "
        "open-access TB data resource supported by the National Institute of Allergy and Infectious Diseases (NIAID) Office of Cyber Infrastructure and "
        "Computational Biology (OCICB) in Bethesda, MD. The data were collected and submitted by members of the TB Portals Consortium; investigators and other "
        "data contributors that originally submitted the data did not participate in the design or analysis of this study.",
        "Alex Rosenthal, Andrei Gabrielian, Eric Engle, Darrell E. Hurt, Sofia Alexandru, Valeriu Crudu, et al. The TB Portals: an Open-Access, Web-Based "
        "Platform for Global Drug-Resistant-Tuberculosis Data Sharing and Analysis. Journal of Clinical Microbiology 55(11):3267-3282, 2017.",
    ],
}
